"""Run the benchmarks one after the other, nothing else meanwhile: JSON lines on standard output.

    python benchmarks/run.py [--list] [--only startup balance …] [--save results.jsonl]

What needs a GPU or a folder of recordings is left out where that isn't at hand. The comparison with the
public version (against_public.py) needs its installation and is started by itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS: dict[str, list[str]] = {
    "startup": ["startup.py"],
    "feeding": ["feeding.py"],
    "conversion": ["conversion.py"],
    "balance": ["balance.py"],
    "model_attention": ["model_attention.py"],
    "products": ["products.py"],
    "model_step": ["model_step.py"],
    "training_cpu": ["training_cpu.py"],
    "inference": ["inference.py"],
    "loading": ["loading.py"],
    "growth": ["growth.py"],
    "waiting": ["waiting.py"],
    "digits": ["digits.py"],
    "training_gpu": ["training_gpu.py"],
}


def missing(name: str) -> str | None:
    """Why a benchmark can't run here."""
    if name == "digits" and not (HERE.parents[1] / "shared" / "data" / "fsdd-train.csv").is_file():
        return "the recordings are not beside the repository; name them with digits.py --data"
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
        script, *words = BENCHMARKS[name]
        done = subprocess.run([sys.executable, str(HERE / script), *words], stdout=subprocess.PIPE, text=True)
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
