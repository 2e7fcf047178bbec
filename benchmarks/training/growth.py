"""How time and memory grow: rows, clip length, model width and processes are doubled, one at a time.

    python -m benchmarks.training.growth [--what rows length width processes] [--doublings 4] [--repeats 3]

For each, every size is measured ``--repeats`` times in turn and the exponent of the growth is fitted to the
medians by least squares (log of the time over log of the size): 1 is linear. Time is processor time on one
thread, which other work on the machine disturbs little. One JSON line for each quantity, with the exponent
that arithmetic allows (``bound``).

    rows       planning an epoch and walking through its steps; reading every row of a dataset in order,
               and the memory of that: time linear, memory constant
    length     a training step of one clip of 10 s, 20 s, …: the encoder works in chunks and stays linear,
               the decoder's attention is quadratic, its linear layers aren't
    width      a training step at doubled width: quadratic, as the weights are
    processes  planning for 64, 128, … processes at the same work for each: linear in the clips of a step
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import emit, spread


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the values over the sizes, both in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-12)), 1)[0])


def measured(
    sizes: Sequence[int], make: Callable[[int], Callable[[], object]], repeats: int
) -> list[list[float]]:
    """Processor seconds of each size, ``repeats`` times in turn, so that a busy moment meets all."""
    runs = [make(size) for size in sizes]
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in sizes]
    for _ in range(repeats):
        for run, found in zip(runs, seconds, strict=True):
            start = time.process_time()
            run()
            found.append(time.process_time() - start)
    return seconds


def report(
    what: str, unit: str, sizes: Sequence[int], values: Sequence[Sequence[float]], bound: float, **more: Any
) -> None:
    """Print the growth of one quantity."""
    medians = [float(np.median(found)) for found in values]
    emit(
        "growth",
        what=what,
        unit=unit,
        sizes=list(sizes),
        values=[spread(found, 6) for found in values],
        exponent=round(exponent(sizes, medians), 3),
        bound=bound,
        **more,
    )


def lengths(rows: int) -> dict[str, Any]:
    """Columns of a dataset of clips of 0.5 to 10 s."""
    chance = np.random.default_rng(0)
    samples = (16000 * chance.uniform(0.5, 10.0, rows)).astype(np.int64)
    return {
        "tokens": 50 + samples // 3200,
        "samples": samples,
        "supervised": chance.integers(2, 20, rows),
        "seed": 0,
    }


def grow_rows(doublings: int, repeats: int) -> None:
    from mdl_toolkit.data.batching.plan import Plan

    sizes = [8192 << n for n in range(doublings + 1)]

    def make(rows: int) -> Callable[[], object]:
        columns = lengths(rows)

        def run() -> None:
            for step in Plan(**columns, micro_batches=8, batch_size=8).epoch(0):
                assert step.micro

        return run

    report("planning an epoch", "rows", sizes, measured(sizes, make, repeats), bound=1.0)
    _grow_files(min(doublings, 3), repeats)


def _grow_files(doublings: int, repeats: int) -> None:
    """Open datasets of several sizes and read all of their rows, each in a process of its own."""
    from support.models.tiny import make_model_folder
    from support.training.runs import make_dataset

    sizes = [512 << n for n in range(doublings + 1)]
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_folder(Path(folder) / "model")
        paths = [make_dataset(Path(folder) / str(rows), model, rows=rows) for rows in sizes]
        found = [[_read(path) for _ in range(repeats)] for path in paths]
    seconds = [[run[0] for run in runs] for runs in found]
    report("reading a dataset", "rows", sizes, seconds, bound=1.0)
    memory = [[run[1] for run in runs] for runs in found]
    report(
        "memory of reading a dataset", "rows", sizes, memory, bound=0.0, measured="MiB of anonymous memory"
    )


_READER = """
import sys, time
from pathlib import Path
from mdl_toolkit.data.dataset.dataset import ClipDataset
data = ClipDataset.open([Path(sys.argv[1])])
began = time.process_time()
for index in range(len(data)):
    data[index]
seconds = time.process_time() - began
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(seconds, int(status["RssAnon"].split()[0]) / 1024)
"""


def _read(path: Path) -> tuple[float, float]:
    """Seconds and MiB (mapped files don't count)."""
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(path)], capture_output=True, text=True, check=True
    )
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def training_step(width: int, seconds: float, clips: int) -> Callable[[], object]:
    """A forward and backward pass of a model of a given width."""
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.distributed.launch import Launch
    from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
    from mdl_toolkit.settings import TrainSettings
    from mdl_toolkit.training.trainable.adapters import make_trainable
    from mdl_toolkit.training.trainable.wrap import Wrapped
    from support.models.batches import random_batch
    from support.models.tiny import tiny_config

    config = tiny_config(
        audio_encoder_config={"embed_dim": width, "num_heads": 4, "depth": 4},
        text_config={
            "hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 4, "rope_scaling": None, "model_type": "qwen2",
        },
    )  # fmt: skip
    torch.manual_seed(0)
    model = MiDashengLMModel(MiDashengLMConfig(**config))
    model.use_own_layers()
    make_trainable(model, TrainSettings(train_dataset="none", output=Path("none"), lora_rank=8))
    model.train()
    wrapped = Wrapped(model, Ranks(Launch(), torch.device("cpu")), torch.float32)
    batch = random_batch(range(clips), seconds)

    def run() -> None:
        wrapped.micro_batch(batch, 1.0, last=True)
        wrapped.zero_grad()

    return run


def grow_length(doublings: int, repeats: int) -> None:
    sizes = [10 << n for n in range(min(doublings, 4) + 1)]
    seconds = measured(sizes, lambda length: training_step(128, float(length), 1), repeats)
    report("a training step", "seconds of audio", sizes, seconds, bound=2.0)


def grow_width(doublings: int, repeats: int) -> None:
    sizes = [64 << n for n in range(min(doublings, 4) + 1)]
    seconds = measured(sizes, lambda width: training_step(width, 5.0, 8), repeats)
    report("a training step", "width", sizes, seconds, bound=2.0)


def grow_processes(doublings: int, repeats: int) -> None:
    from mdl_toolkit.data.batching.plan import Plan

    sizes = [64 << n for n in range(doublings + 1)]

    def make(processes: int) -> Callable[[], object]:
        steps = list(Plan(**lengths(processes * 64), micro_batches=processes, batch_size=8).epoch(0))

        def run() -> None:
            for step in steps:
                step.__dict__.pop("micro", None)
                assert len(step.micro) == processes

        return run

    report("dividing a step", "processes", sizes, measured(sizes, make, repeats), bound=1.0, steps=8)


GROWTH = {"rows": grow_rows, "length": grow_length, "width": grow_width, "processes": grow_processes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", nargs="+", choices=GROWTH, default=list(GROWTH))
    parser.add_argument("--doublings", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for what in options.what:
        GROWTH[what](options.doublings, options.repeats)


if __name__ == "__main__":
    main()
