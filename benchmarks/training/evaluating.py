"""What an evaluation costs: the loss alone, and with answers to 300 spoken digits, from the small base.

    python -m benchmarks.training.evaluating [--data ../shared/data] [--epochs 4]

Each run trains for some epochs on a fifth of the training recordings, and evaluates before its first step, in
the middle and at the end. The base, which knows nothing of digits, gives longer answers than what it becomes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RECORDINGS, emit

VARIANTS: dict[str, list[str]] = {
    "loss": [],
    "100 answers": ["--eval-generate", "100"],
    "all answers": ["--eval-generate", "0"],
    "all answers, words and characters scored": ["--eval-generate", "0", "--eval-task", "asr"],
}


def part_of(table: Path, folder: Path) -> Path:
    """A table with every fifth row."""
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    made = folder / "some.csv"
    made.write_text("\n".join([header, *rows[::5]]) + "\n", encoding="utf-8")
    return made


def measure(data: Path, table: Path, work: Path, epochs: float, options: list[str]) -> dict[str, Any]:
    """Seconds of the three evaluations of a run, and of the whole run."""
    words = [
        *("train", "--model-name", "tiny", "--train-dataset", str(table), "--base-dir", str(data)),
        *("--eval-dataset", str(data / "fsdd-test.csv"), "--cache-dir", str(work / "cache")),
        *("--num-epochs", f"{epochs:g}", "--eval-steps", "0.5", "--eval-on-start", "--overwrite"),
        *("--final-dtype", "float32", "--output", str(work / "run"), *options),
    ]
    program = Path(sys.executable).with_name("mdl-toolkit")
    subprocess.run([str(program), *words], check=True, capture_output=True)
    lines = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "eval_loss" in line]
    return {
        "base_seconds": evaluations[0]["eval_seconds"],
        "middle_seconds": evaluations[1]["eval_seconds"],
        "last_seconds": evaluations[-1]["eval_seconds"],
        "run_seconds": lines[-1]["train_runtime"],
        **{key: value for key, value in evaluations[-1].items() if key in ("eval_accuracy", "eval_wer")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=RECORDINGS)
    parser.add_argument("--epochs", type=float, default=4.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        table = part_of(arguments.data / "fsdd-train.csv", work)
        for name, options in VARIANTS.items():
            found = measure(arguments.data.resolve(), table, work, arguments.epochs, options)
            emit("evaluating", evaluation=name, rows=300, **found)


if __name__ == "__main__":
    main()
