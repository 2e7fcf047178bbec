"""How training is fed: micro-batches a second from the data workers, their start and their memory.

python -m benchmarks.data.feeding [--workers 0 1 2] [--seconds 20 30] [--rows 64] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.common import emit, spread


def descendants() -> list[int]:
    """Processes that this one has started, and those that they have."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def pss_mib(pid: int) -> float:
    """Memory of a process in MiB, what it shares with others divided among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def shared_mib() -> float:
    """What /dev/shm holds at the moment, in MiB."""
    status = os.statvfs("/dev/shm")  # noqa: S108 -- asked how full it is, not written to
    return (status.f_blocks - status.f_bfree) * status.f_frsize / 2**20


def measure(data: Path, workers: int, args: argparse.Namespace) -> dict[str, object]:
    import torch

    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.training.batches.loader import MicroBatches

    tasks = [tuple(range(i, i + args.batch_size)) for i in range(0, args.rows, args.batch_size)] * args.rounds
    token_id = ClipDataset.open([data]).manifest.audio_token_id
    first, rates, memory, shared = [], [], [], []
    for _ in range(args.repeats):
        began = time.perf_counter()
        with closing(MicroBatches([data], token_id, torch.device("cpu"), workers)(tasks)) as batches:
            for number, _ in enumerate(batches):
                if number == 0:
                    at = time.perf_counter()
                    first.append(at - began)
                if number == len(tasks) // 2:
                    middle = time.perf_counter()
                    time.sleep(0.5)  # all is ready now that is made ahead
                    memory.append(sum(map(pss_mib, descendants())))
                    shared.append(shared_mib())
                    pause = time.perf_counter() - middle
            rates.append((len(tasks) - 1) / (time.perf_counter() - at - pause))
    return {
        "batches_per_second": spread(rates, 1),
        "first_batch_seconds": spread(first),
        "workers_mib": spread(memory, 0),
        "dev_shm_mib": spread(shared, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, nargs=2, default=(20.0, 30.0), help="shortest, longest clip")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10, help="times over all rows")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    from support.models.tiny import make_model_folder
    from support.training.runs import make_dataset

    with tempfile.TemporaryDirectory() as folder:
        model = make_model_folder(Path(folder) / "model")
        data = make_dataset(Path(folder) / "data", model, rows=args.rows, seconds=tuple(args.seconds))
        for workers in args.workers:
            emit(
                "feeding",
                packages=("torch", "numpy", "pyarrow"),
                workers=workers,
                seconds=list(args.seconds),
                batch_size=args.batch_size,
                **measure(data, workers, args),
            )


if __name__ == "__main__":
    main()
