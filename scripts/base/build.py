"""Train the small base model that ships with the package anew, by the package's own commands.

    python -m scripts.base.build [--lessons 36000] [--epochs 4] [--output src/mdl_toolkit/demo/tiny]

It synthesises the lessons, trains a tokenizer on their captions, draws random weights, and lets
``mdl-toolkit`` convert the lessons and train every weight on them; the result is rounded to bfloat16.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mdl_toolkit.demo.sounds import write_wav
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.model.config import DashengConfig
from mdl_toolkit.model.frontend import MelFrontend
from mdl_toolkit.model.layout import ClipLayout
from mdl_toolkit.settings import TRAIN_TARGETS
from scripts.base.config import write_text_files
from scripts.base.lessons import lesson
from scripts.base.tokenizer import build_tokenizer
from scripts.base.weights import random_weights

HELD_OUT = 10_000_000  # numbers of lessons from here on are for evaluation
TINY = Path(__file__).resolve().parents[2] / "src" / "mdl_toolkit" / "demo" / "tiny"
COLUMNS = ("audio", "prediction", "user_prompt", "system_prompt")


def write_lesson(folder: Path, seed: int, number: int) -> dict[str, str]:
    """Write one recording and return its row."""
    made = lesson(seed, number)
    audio = f"{number:08d}.wav"
    write_wav(folder / audio, made.wave)
    return dict(
        zip(COLUMNS, (audio, made.answer, made.user_prompt or "", made.system_prompt or ""), strict=True)
    )


def write_lessons(folder: Path, seed: int, first: int, count: int) -> list[dict[str, str]]:
    """Write recordings and ``lessons.csv`` into a folder, with all cores, unless they are there already."""
    if (folder / "lessons.csv").is_file():
        with open(folder / "lessons.csv", encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        rows = pool.map(partial(write_lesson, folder, seed), range(first, first + count), chunksize=200)
    with open(folder / "lessons.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def mel_statistics(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every mel band over some lessons, in dB, each ``[64]``."""
    config = DashengConfig()
    geometry = AudioGeometry()
    waves = [lesson(seed, number).wave for number in range(count)]
    waves = [np.pad(wave, (0, geometry.padded_samples(len(wave)) - len(wave))) for wave in waves]
    layout = ClipLayout.build([len(wave) for wave in waves], geometry, config.n_fft, torch.device("cpu"))
    decibels = MelFrontend(config)(torch.from_numpy(np.concatenate(waves)), layout)
    return decibels.mean(0).numpy(), decibels.std(0).numpy()


def mdl_toolkit(*words: str) -> None:
    """Run one of the package's commands."""
    print(f"\n$ mdl-toolkit {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "mdl_toolkit", *words], check=True)


def round_weights(source: Path, target: Path) -> None:
    """Write the weights of a folder in bfloat16 as one file (whole numbers stay as they are)."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        weights.update(load_file(file))
    rounded = {
        name: tensor.to(torch.bfloat16).contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    partial_file = target.with_name("model.safetensors.partial")
    save_file(rounded, partial_file, metadata={"format": "pt"})
    os.chmod(partial_file, 0o644)
    os.replace(partial_file, target)


def build(work: Path, output: Path, lessons: int, epochs: float, seed: int) -> None:
    """Go the whole way in a working folder and put the result into ``output``."""
    began = time.monotonic()
    rows = write_lessons(work / "lessons", seed, 0, lessons)
    write_lessons(work / "held-out", seed, HELD_OUT, 400)
    texts = [row[name] for row in rows[:6000] for name in ("prediction", "user_prompt") if row[name]]
    tokenizer = build_tokenizer(texts)
    start = work / "start"
    write_text_files(start, tokenizer)
    mean, spread = mel_statistics(seed, 500)
    save_file(
        {name: torch.from_numpy(value) for name, value in random_weights(seed, mean, spread).items()},
        start / "model.safetensors",
        metadata={"format": "pt"},
    )
    print(f"{lessons} lessons in {time.monotonic() - began:.0f} s", flush=True)
    for part in ("lessons", "held-out"):
        source, converted = work / part, work / f"{part}-converted"
        mdl_toolkit(
            *("convert-dataset", str(source / "lessons.csv"), "--base-dir", str(source)),
            *("--model-name", str(start), "--output", str(converted), "--overwrite"),
        )
    mdl_toolkit(
        *("train", "--model-name", str(start), "--output", str(work / "run")),
        *("--train-dataset", str(work / "lessons-converted")),
        *("--eval-dataset", str(work / "held-out-converted"), "--eval-steps", "0.1"),
        *("--method", "full", *(word for target in TRAIN_TARGETS for word in ("--train-target", target))),
        *("--batch-size", "16", "--num-epochs", str(epochs), "--bf16", "false", "--seed", str(seed)),
        *("--lr", "1e-3", "--warmup-steps", "100", "--weight-decay", "0.01"),
        *("--save-steps", "0.1", "--save-total-limit", "1", "--overwrite"),
    )
    write_text_files(output, tokenizer)
    round_weights(work / "run" / "final", output / "model.safetensors")
    size = sum(file.stat().st_size for file in output.iterdir())
    print(f"{output}: {size / 1e6:.2f} MB in {(time.monotonic() - began) / 60:.1f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lessons", type=int, default=36_000, help="recordings to learn from")
    parser.add_argument("--epochs", type=float, default=4.0, help="times that each is heard")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=TINY, help="model folder to fill")
    parser.add_argument("--work", type=Path, help="keep lessons and checkpoints here; else they are removed")
    args = parser.parse_args()
    if args.work:
        build(args.work, args.output, args.lessons, args.epochs, args.seed)
        return
    with tempfile.TemporaryDirectory(prefix="mdl-base-") as work:
        build(Path(work), args.output, args.lessons, args.epochs, args.seed)


if __name__ == "__main__":
    main()
