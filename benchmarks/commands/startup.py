"""How long a person waits for help and for an error: whole processes, wall time.

python -m benchmarks.commands.startup [--repeats 10] [--baseline PATH_OF_ANOTHER_mdl-toolkit]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import emit, spread

LINES = {
    "help": ["--help"],
    "convert-dataset --help": ["convert-dataset", "--help"],
    "train --help": ["train", "--help"],
    "inference --help": ["inference", "--help"],
    "demo --help": ["demo", "--help"],
    "wrong option": ["train", "--lora-ranks", "8"],
}


def seconds(program: str, words: list[str], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([program, *words], capture_output=True, check=False)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--baseline", help="the mdl-toolkit program of another installation")
    args = parser.parse_args()
    ours = str(Path(sys.executable).with_name("mdl-toolkit"))
    for name, words in LINES.items():
        emit("startup", packages=(), line=name, seconds=spread(seconds(ours, words, args.repeats)))
    if args.baseline:
        times = seconds(args.baseline, ["--help"], max(1, args.repeats // 5))
        emit("startup", packages=(), line="help", program="baseline", seconds=spread(times))


if __name__ == "__main__":
    main()
