"""Whether a command gives the same bits at every start: the losses and the weights of a small training.

    python -m benchmarks.reliability.starts [--starts 500] [--forked] [--like-intel] [--keep FILE]

Every start is a process of its own that trains the small base in full for some steps, on two threads. All
first uses of libraries are in it: products, transforms, vector functions, attention, the optimizer. One JSON
line says how many results there were and what first differs; the exit code is 1 if there was more than one.

--forked forks the processes from one that has imported the libraries and computed nothing: threads and
libraries are as new in each, in a fifth of the time; addresses are the same in all of them.
--like-intel lets MKL take an AMD processor for one of Intel's, for which it has more kernels to choose among
(Linux with a C compiler; for the script's own sake, not a way to run the toolkit).
--keep adds the results to a file and counts those that are in it, so that many starts can be made in pieces.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.common import emit

THREADS = 2
LIMIT_SECONDS = 600


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", type=int, default=500)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--forked", action="store_true")
    parser.add_argument("--like-intel", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        found = []
        for line in results(args, Path(folder)):
            found.append(line)
            if line != found[0]:
                print(f"start {len(found)} ended otherwise: {line}", file=sys.stderr, flush=True)
            if args.keep:  # at once: what is stopped halfway is kept too
                with open(args.keep, "a", encoding="utf-8") as stream:
                    stream.write(f"{line}\n")
        seconds = time.perf_counter() - begun
    if args.keep:
        found = args.keep.read_text(encoding="utf-8").splitlines()
    return report(args, found, seconds)


def results(args: argparse.Namespace, folder: Path) -> Iterator[str]:
    """What each start ended with: its losses and a digest of its weights, as JSON."""
    from mdl_toolkit.hub import resolve_model
    from support.training.runs import make_dataset

    make_dataset(folder / "data", resolve_model("tiny"), rows=24)
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OMP_", "GOMP_", "MKL_"))
        },
        "OMP_NUM_THREADS": str(THREADS),
        "HF_HUB_OFFLINE": "1",
    }
    if args.like_intel:
        environment["LD_PRELOAD"] = str(taken_for_intel(folder))
    words = ["train", "--model-name", "tiny", "--train-dataset", "data", "--method", args.method]
    words += ["--max-steps", str(args.steps), "--output", "run", "--overwrite"]
    start = forking(words, folder, environment) if args.forked else anew(words, folder, environment)
    for _ in range(args.starts):
        start()
        yield json.dumps(result(folder / "run"))


def anew(words: list[str], folder: Path, environment: dict[str, str]) -> Callable[[], None]:
    """How to run a command in a new process."""
    command = [str(Path(sys.executable).with_name("mdl-toolkit")), *words]

    def start() -> None:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS
        )
        if done.returncode:
            sys.exit(done.stderr)

    return start


#: It imports what others have written (all that the first process came to need) and forks itself for every
#: line that it reads. Of this package it imports nothing: that makes the libraries' first uses.
SERVER = """
import contextlib, gc, importlib, os, sys
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        from mdl_toolkit.cli import run
        code = run({words})
        open("modules", "w").write(" ".join(name for name in sys.modules if "mdl_toolkit" not in name))
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    for name in open("modules").read().split() if os.path.exists("modules") else ():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
"""


def forking(words: list[str], folder: Path, environment: dict[str, str]) -> Callable[[], None]:
    """How to run a command in a process forked from one that has imported the libraries."""
    # What the command line sets before it imports torch.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(words=words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment | waiting,
    )  # fmt: skip

    def start() -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write("\n")
        server.stdin.flush()
        if (code := server.stdout.readline()) != "0\n":
            sys.exit(f"code {code}: {(folder / 'log').read_text(encoding='utf-8')}")

    return start


def taken_for_intel(folder: Path) -> Path:
    """A library that answers MKL's question whether this is a processor of Intel's with yes."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("--like-intel needs a C compiler")
    source, made = folder / "intel.c", folder / "intel.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made


def result(run: Path) -> dict[str, object]:
    """The losses of a run's steps, and a digest of the weights that it has left."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    digest = hashlib.sha256()
    for path in sorted((run / "final").glob("*.safetensors")):
        digest.update(path.read_bytes())
    return {"losses": [line["loss"] for line in lines if "loss" in line], "weights": digest.hexdigest()[:16]}


def first_difference(one: str, other: str) -> str:
    """What differs first between two results: a step's loss, or only the weights."""
    losses = zip(json.loads(one)["losses"], json.loads(other)["losses"], strict=True)
    return next((f"loss of step {step}" for step, (a, b) in enumerate(losses, 1) if a != b), "weights")


def report(args: argparse.Namespace, found: list[str], seconds: float) -> int:
    """Print what there was; whether there was more than one result, as an exit code."""
    (usual, often), *others = Counter(found).most_common()
    emit(
        "starts",
        starts=len(found),
        results=1 + len(others),
        usual=often,
        others=[
            {"starts": count, "first_difference": first_difference(usual, other)} for other, count in others
        ],
        # Where none of n was otherwise, the share that is otherwise is below this in 95 of 100 such trials.
        share_below=None if others else round(1 - 0.05 ** (1 / len(found)), 5),
        forked=args.forked,
        like_intel=args.like_intel,
        method=args.method,
        steps=args.steps,
        seconds_a_start=round(seconds / args.starts, 2),
    )
    return bool(others)


if __name__ == "__main__":
    sys.exit(main())
