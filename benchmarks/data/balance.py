"""How evenly a step's work is divided over many ranks: a simulation, no training.

    python -m benchmarks.data.balance [--ranks 8,64,1024] [--steps 50]

One JSON line for each distribution of lengths, number of ranks and way to divide:

- ``random`` (the baseline): 8 clips a rank, drawn at random;
- ``count``: our plan with --batch-size 8;
- ``tokens``: our plan with --max-tokens, its budget set so that steps have about as many clips.

``balance`` is the mean over steps of mean work over maximum work of the ranks: the share of the time that
ranks work rather than wait, if time goes as work. ``tail`` is the share of an epoch's time that is lost
because its last step is not full. Work is that of the 7B model: this is arithmetic, not a machine's timing.

Lengths of clips:

- ``digits``: the spoken digits of ../shared/data (0.1 to 2.3 s), where that folder is there;
- ``librispeech-like``: synthetic. Read sentences cut at pauses: 70 % normal around 14.5 s with deviation
  1.6 s, 30 % even from 1.5 to 14 s, all within 1.3 and 24.5 s; answers of 2.7 words a second at 1.3 tokens a
  word. A peak at 14 to 16 s, a long left flank and a mean of about 12.5 s, as that corpus is described.
"""

from __future__ import annotations

import argparse
import csv
from typing import Any

import numpy as np
import soundfile

from benchmarks.common import RECORDINGS, emit
from mdl_toolkit.data.batching.balance import Costs, clip_work
from mdl_toolkit.data.batching.plan import Plan
from mdl_toolkit.geometry import AudioGeometry

GEOMETRY = AudioGeometry()
PROMPT_TOKENS = 40
CLIPS_PER_RANK = 8


def digits() -> tuple[np.ndarray, np.ndarray] | None:
    """Samples and answer tokens of the real recordings."""
    if not RECORDINGS.is_dir():
        return None
    seconds = []
    for name in ("fsdd-train.csv", "fsdd-test.csv"):
        with open(RECORDINGS / name, newline="", encoding="utf-8") as stream:
            seconds += [soundfile.info(RECORDINGS / row["audio"]).duration for row in csv.DictReader(stream)]
    return np.round(np.array(seconds) * 16000).astype(np.int64), np.full(len(seconds), 2)


def librispeech_like(rows: int = 30_000) -> tuple[np.ndarray, np.ndarray]:
    """Samples and answer tokens of synthetic utterances."""
    dice = np.random.default_rng(0)
    long = dice.random(rows) < 0.7
    seconds = np.where(long, dice.normal(14.5, 1.6, rows), dice.uniform(1.5, 14.0, rows)).clip(1.3, 24.5)
    words = seconds * dice.normal(2.7, 0.4, rows).clip(1.5, 4)
    return np.round(seconds * 16000).astype(np.int64), np.round(words * 1.3).astype(np.int64) + 1


def drawn(clips: tuple[np.ndarray, np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, samples and supervised tokens of ``rows`` clips, drawn with replacement."""
    choice = np.random.default_rng(1).integers(0, len(clips[0]), rows)
    samples, supervised = clips[0][choice], clips[1][choice]
    padded = np.maximum(samples, GEOMETRY.min_samples)
    patches = (1 + padded // GEOMETRY.hop_length) // GEOMETRY.patch_frames
    audio = np.maximum(1, patches // GEOMETRY.subsample_factor)
    return PROMPT_TOKENS + audio + supervised, samples, supervised


def balance(work: list[np.ndarray]) -> float:
    """Mean over steps of mean over maximum."""
    return float(np.mean([step.mean() / step.max() for step in work]))


def report(
    name: str, ranks: int, way: str, full: list[np.ndarray], last: np.ndarray | None, rows: int
) -> None:
    """One line. ``full`` and ``last``: work of each rank in the full steps, and in the last one."""
    steps = [*full, *([last] if last is not None else [])]
    time = sum(step.max() for step in steps)
    lost = last.max() - last.mean() * 1.0 if last is not None else 0.0
    emit(
        "balance",
        packages=("numpy",),
        lengths=name,
        ranks=ranks,
        division=way,
        rows=rows,
        steps=len(steps),
        balance=round(balance(full), 4),
        worst_step=round(float(min(step.mean() / step.max() for step in full)), 4),
        efficiency_of_epoch=round(float(sum(step.mean() for step in steps) / time), 4),
        tail=round(float(lost / time), 4),
    )


def simulate(name: str, clips: tuple[np.ndarray, np.ndarray], ranks: int, steps: int) -> None:
    """All ways to divide, for one distribution and number of ranks."""
    size = ranks * CLIPS_PER_RANK
    rows = steps * size + size // 3  # so that the last step is a third full
    tokens, samples, supervised = drawn(clips, rows)
    work = clip_work(tokens, samples, supervised, GEOMETRY, Costs())

    order = np.random.default_rng(2).permutation(rows)
    groups = np.array_split(order[: steps * size], steps)
    full = [work[group].reshape(ranks, CLIPS_PER_RANK).sum(axis=1) for group in groups]
    rest = [part for part in np.split(order[steps * size :], range(8, rows - steps * size, 8)) if len(part)]
    last = np.array([work[part].sum() for part in rest] + [0.0] * (ranks - len(rest)))
    report(name, ranks, "random", full, last, rows)

    budget = int(tokens.mean() * CLIPS_PER_RANK / 0.95) + 1
    ways: dict[str, Any] = {"count": {"batch_size": CLIPS_PER_RANK}, "tokens": {"max_tokens": budget}}
    for way, options in ways.items():
        plan = Plan(tokens, samples, supervised, seed=0, micro_batches=ranks, **options)
        epoch = [np.array([plan.work[part].sum() for part in step.micro]) for step in plan.epoch(0)]
        report(name, ranks, way, epoch[:-1], epoch[-1], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", default="8,64,1024")
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    lengths = {"digits": digits(), "librispeech-like": librispeech_like()}
    for name, clips in lengths.items():
        if clips is None:
            continue
        for ranks in map(int, args.ranks.split(",")):
            simulate(name, clips, ranks, args.steps)


if __name__ == "__main__":
    main()
