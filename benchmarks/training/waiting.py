"""How the threads of a CPU should wait for each other: spinning or asleep, on an idle and on a busy machine.

    python -m benchmarks.training.waiting [--steps 40] [--busy 8] [--repeats 3] [--size tiny|113M]

Threads that spin start a little sooner and hold their core meanwhile: where other programs want it too, the
thread that is waited for can't run. Each result is a training by the ``train`` command with other settings of
the OpenMP runtime, idle and beside so many processes that compute; the settings take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import SHAPE, emit, spread

#: By name: what is set in the environment. libgomp counts its spins; by itself it does 300,000 and more.
WAYS = {
    "runtime's own": {"GOMP_SPINCOUNT": "300000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
}
#: A training that spins on a busy machine may not end in an hour.
LIMIT_SECONDS = 300


def seconds_of(words: list[str], environment: dict[str, str], folder: Path) -> float | None:
    """Seconds that the steps of a training took, start-up left out; ``None`` where it took too long."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    program = str(Path(sys.executable).with_name("mdl-toolkit"))
    try:
        subprocess.run(
            [program, *words],
            cwd=folder,
            env={**clean, **environment},
            check=True,
            capture_output=True,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None
    last = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["train_runtime"])


def measure(size: str, steps: int, busy: int, repeats: int, folder: Path) -> None:
    from mdl_toolkit.hub import resolve_model
    from support.models.tiny import make_model_folder
    from support.training.runs import make_dataset

    model = resolve_model("tiny") if size == "tiny" else make_model_folder(folder / "model", **SHAPE)
    make_dataset(folder / "data", model, rows=400, seconds=(0.2, 3.0))
    words = [
        *("train", "--model-name", str(model), "--train-dataset", "data", "--method", "lora"),
        *("--lr", "1e-4", "--max-steps", str(steps), "--output", "run", "--overwrite"),
    ]
    times: dict[str, list[float | None]] = {name: [] for name in WAYS}
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        for _ in range(repeats):
            for name, environment in WAYS.items():
                if None not in times[name]:
                    times[name].append(seconds_of(words, environment, folder))
    finally:
        for process in load:
            process.kill()
            process.wait()
    for name, found in times.items():
        done = [value for value in found if value is not None]
        emit(
            "waiting",
            way=name,
            size=size,
            steps=steps,
            busy=busy,
            seconds=spread(done) if done else None,
            longer_than=None if len(done) == len(found) else LIMIT_SECONDS,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--busy", type=int, default=8, help="other processes that compute, in the second half"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=("tiny", "113M"), default="tiny")
    args = parser.parse_args()
    for busy in (0, args.busy):
        with tempfile.TemporaryDirectory(prefix="mdl-waiting-") as work:
            measure(args.size, args.steps, busy, args.repeats, Path(work))


if __name__ == "__main__":
    main()
