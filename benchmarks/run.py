"""Run the benchmarks one after the other, nothing else meanwhile: JSON lines on standard output.

    python -m benchmarks.run [--list] [--only startup balance …] [--save results.jsonl]

What needs a GPU or a folder of recordings is left out where that isn't at hand. The comparison with the
public version (against_public.py) needs its installation and is started by itself, and so are the many starts
of reliability/starts.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.common import RECORDINGS, ROOT

#: Module of each benchmark, in the order in which they run.
BENCHMARKS = {
    "startup": "commands.startup",
    "feeding": "data.feeding",
    "conversion": "data.conversion",
    "pools": "data.pools",
    "fingerprints": "data.fingerprints",
    "balance": "data.balance",
    "attention": "model.attention",
    "products": "model.products",
    "model_step": "model.step",
    "training_cpu": "training.cpu",
    "inference": "commands.inference",
    "report": "commands.report",
    "choices": "model.choices",
    "evaluate": "commands.evaluate",
    "loading": "model.loading",
    "growth": "training.growth",
    "waiting": "training.waiting",
    "evaluating": "training.evaluating",
    "digits": "training.digits",
    "training_gpu": "training.gpu",
}


def missing(name: str) -> str | None:
    """Why a benchmark can't run here."""
    if name in ("digits", "evaluating") and not (RECORDINGS / "fsdd-train.csv").is_file():
        return (
            f"the recordings are not beside the repository; benchmarks.training.{name} takes them by --data"
        )
    if name == "training_gpu":
        import torch

        if not torch.cuda.is_available():
            return "there is no CUDA device"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name them and stop")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--save", type=Path, help="append the JSON lines to this file too")
    args = parser.parse_args()
    if args.list:
        print("\n".join(BENCHMARKS))
        return 0
    failed = []
    for name in args.only:
        if reason := missing(name):
            print(f"{name}: left out: {reason}", file=sys.stderr)
            continue
        print(f"{name} …", file=sys.stderr)
        command = [sys.executable, "-m", f"benchmarks.{BENCHMARKS[name]}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
        print(done.stdout, end="", flush=True)
        if args.save:
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            with open(args.save, "a", encoding="utf-8") as stream:
                stream.writelines(line + "\n" for line in lines)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
