"""``report`` on many rows: time, memory, and what it writes, for one run and for two that are compared.

python -m benchmarks.commands.report [--rows 10000] [--clips 500]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.common import emit
from mdl_toolkit.scoring.api import score, write_evaluation

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "boats", "leave")


def make_evaluation(folder: Path, rows: int, clips: int, seed: int) -> None:
    """Answers of 10 words, of which one in 20 is wrong, with the columns that inference writes."""
    truths, draw = random.Random(0), random.Random(seed)  # noqa: S311 -- nothing secret
    columns: dict[str, list[Any]] = {name: [] for name in ("audio", "speaker", "prediction", "reference")}
    for row in range(rows):
        said = truths.choices(WORDS, k=10)
        heard = [word if draw.random() > 0.05 else draw.choice(WORDS) for word in said]
        for name, value in (
            ("audio", f"clips/{row % clips}.wav"),
            ("speaker", f"speaker {row % 20}"),
            ("prediction", " ".join(heard)),
            ("reference", " ".join(said)),
        ):
            columns[name].append(value)
    columns["start"] = [row // clips * 0.001 for row in range(rows)]
    columns["mean_logprob"] = [-draw.expovariate(4) for _ in range(rows)]
    scored = score("asr", columns["reference"], columns["prediction"])
    write_evaluation(folder, scored, columns, source="dev.csv", slice_by=["speaker"])


def make_clips(folder: Path, count: int, seconds: float = 5.0) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(count):
        samples = noise.normal(0, 0.1, round(16000 * seconds)).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", samples, 16000)


def measured(folder: Path, words: list[str]) -> dict[str, Any]:
    """Seconds of the whole command and of its threads together, peak memory, and what it wrote, in MB."""
    program = (
        "import resource, sys; from mdl_toolkit import cli; code = cli.run(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_maxrss // 1024, used.ru_utime + used.ru_stime); sys.exit(code)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, "report", *words, "--output", "r.html"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    memory, cpu = done.stdout.split()[-2:]
    beside = sum(path.stat().st_size for path in (folder / "r-audio").glob("*"))
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(float(cpu), 2),
        "peak_mb": int(memory),
        "page_mb": round((folder / "r.html").stat().st_size / 1e6, 2),
        "beside_mb": round(beside / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--clips", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clips(folder / "clips", args.clips)
        for number in (1, 2):
            evaluated = folder / f"run{number}" / "evaluation" / "main"
            make_evaluation(evaluated, args.rows, args.clips, number)
        for what, words in {
            "one run, no recordings": ["run1", "--base-dir", "run1"],
            "one run, its recordings": ["run1", "--max-clips", str(args.clips)],
            "two runs compared, recordings": ["run1", "run2", "--max-clips", str(args.clips)],
        }.items():
            emit(
                "report", packages=(), what=what, rows=args.rows, clips=args.clips, **measured(folder, words)
            )


if __name__ == "__main__":
    main()
