"""Spoken digits on real recordings, by plain commands: the example of docs/en/example-digits.md, measured.

    python -m benchmarks.training.digits [--data ../shared/data] [--keep FOLDER]

The recordings (Free Spoken Digit Dataset, CC BY-SA 4.0) are read where they lie and copied nowhere.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import RECORDINGS, emit

EPOCHS = 14.0


def commands(data: Path, epochs: float) -> dict[str, list[str]]:
    """The four steps as in the example, by name."""
    from_data = ["--base-dir", str(data), "--model-name", "tiny"]
    return {
        "convert_train": [
            *("convert-dataset", str(data / "fsdd-train.csv"), *from_data),
            *("--output", "digits-train"),
        ],
        "convert_test": [
            *("convert-dataset", str(data / "fsdd-test.csv"), *from_data),
            *("--output", "digits-test"),
        ],
        "train": [
            *("train", "--model-name", "tiny", "--method", "full"),
            *("--train-target", "encoder,projector,decoder,embed_tokens,lm_head"),
            *("--train-dataset", "digits-train", "--eval-dataset", "digits-test", "--eval-steps", "0.25"),
            *("--batch-size", "8", "--num-epochs", f"{epochs:g}"),
            *("--lr", "1e-3", "--warmup-steps", "200", "--lr-scheduler", "cosine", "--weight-decay", "1.0"),
            *("--output", "digits-run"),
        ],
        "inference": [
            *("inference", str(data / "fsdd-test.csv"), "--base-dir", str(data)),
            *("--model-name", "digits-run/final", "--max-new-tokens", "8", "--output", "digits.csv"),
        ],
    }


def correct(truth: Path, answers: Path) -> tuple[int, int]:
    """How many answers are exactly the truth, and how many rows there are."""
    with open(truth, encoding="utf-8", newline="") as a, open(answers, encoding="utf-8", newline="") as b:
        pairs = list(zip(csv.DictReader(a), csv.DictReader(b), strict=True))
    return sum(t["prediction"] == p["prediction"] and t["audio"] == p["audio"] for t, p in pairs), len(pairs)


def measure(data: Path, epochs: float, work: Path) -> None:
    seconds = {}
    program = Path(sys.executable).with_name("mdl-toolkit")
    for name, words in commands(data, epochs).items():
        began = time.perf_counter()
        subprocess.run([program, *words], cwd=work, check=True)
        seconds[name] = round(time.perf_counter() - began, 1)
    right, rows = correct(data / "fsdd-test.csv", work / "digits.csv")
    emit(
        "digits",
        packages=("torch", "transformers", "datasets"),
        correct=right,
        rows=rows,
        accuracy=round(right / rows, 4),
        epochs=epochs,
        threads=os.environ.get("OMP_NUM_THREADS"),
        seconds=seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="folder with fsdd/ and the two CSVs")
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    args = parser.parse_args()
    data = args.data.resolve()
    if not (data / "fsdd-train.csv").is_file():
        parser.error(f"no fsdd-train.csv in {data}: name the folder with --data")
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        measure(data, args.epochs, args.keep)
        return
    with tempfile.TemporaryDirectory(prefix="mdl-digits-") as work:
        measure(data, args.epochs, Path(work))


if __name__ == "__main__":
    main()
