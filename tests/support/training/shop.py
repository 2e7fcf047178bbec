"""A user's folder for real launches: a small model, two tables with recordings; and how runs are compared."""

from __future__ import annotations

import csv
import json
import shlex
import wave
from pathlib import Path
from typing import Any

import numpy as np

from support.models.tiny import make_model_folder

#: Rows of the tables: neither is a multiple of the batch.
TRAIN_ROWS, TEST_ROWS = 21, 9
_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

#: The training of every test here and in the guide; its steps take 8 clips, whatever the number of processes.
TRAIN = shlex.split(
    "mdl-toolkit train --config train.yaml --lora-rank 16 --eval-steps 50 "
    "--train-dataset train-converted/ --eval-dataset test-converted/"
)
#: A conversion and a prediction in such a folder; the output's name is the last word.
CONVERT = shlex.split("mdl-toolkit convert-dataset train.csv --config convert.yaml --output")
PREDICT = shlex.split("mdl-toolkit inference test.csv --model-name alone/final --num-workers 1 --output")
#: A longer training that can be interrupted in its middle: 24 steps, each of them saved.
LONG = [*TRAIN, "--num-epochs", "8", "--save-steps", "1", "--save-total-limit", "3"]


def train_on(dataset: str, training: list[str] = TRAIN) -> list[str]:
    """The same training on another dataset."""
    return [dataset if word == "train-converted/" else word for word in training]


def write_clip(path: Path, seconds: float, pitch: float) -> None:
    """A tone with some noise, 16 kHz mono, 16 bit."""
    count = int(16000 * seconds)
    noise = np.random.default_rng(int(pitch)).normal(size=count)
    samples = 0.3 * np.sin(2 * np.pi * pitch * np.arange(count) / 16000) + 0.02 * noise
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(16000)
        stream.writeframes((samples * 32767).astype("<i2").tobytes())


def write_table(folder: Path, name: str, rows: int) -> Path:
    """``NAME.csv`` and its recordings: clips of 0.1 to 2.1 s, answers of 1 to 12 words."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    table = folder / f"{name}.csv"
    with open(table, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["audio", "prediction", "user_prompt", "speaker"])
        for row in range(rows):
            clip = f"clips/{name}-{row}.wav"
            write_clip(folder / clip, 0.1 + 2.0 * (row * 7 % rows) / rows, 150 + 40 * row)
            writer.writerow([clip, " ".join(_WORDS[: 1 + row * 5 % 12]), "Which numbers?", f"s{row % 3}"])
    return table


def make_shop(folder: Path, **settings: Any) -> Path:
    """Fill a folder: ``model/``, ``train.csv``, ``test.csv``, ``train.yaml`` and ``convert.yaml``.

    Args:
        folder: Made where it isn't there.
        settings: For ``train.yaml``, over those of all tests (two processes make a batch of 8).

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make_model_folder(folder / "model")
    write_table(folder, "train", TRAIN_ROWS)
    write_table(folder, "test", TEST_ROWS)
    convert: dict[str, Any] = {"model_name": "model", "num_workers": 1}
    # The defaults for a base of this size are others than those that the published model has.
    large = {"method": "lora", "train_target": ["encoder", "projector", "decoder"], "warmup_steps": 0}
    chosen = {"batch_size": 4, "num_epochs": 2, "lr": 0.003, "data_workers": 0}
    train = {**convert, **large, **chosen, **settings}
    for name, values in (("convert", convert), ("train", train)):
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps(values))
    return folder


def metrics(output: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``."""
    text = (output / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def steps(output: Path) -> list[dict[str, Any]]:
    """The lines of its optimizer steps; a step made twice, after a restart, counts as last made."""
    return list({line["step"]: line for line in metrics(output) if "grad_norm" in line}.values())


def eval_losses(output: Path) -> list[float]:
    """What its evaluations gave."""
    return [line["eval_loss"] for line in metrics(output) if "eval_loss" in line]


def weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a model folder, as float32."""
    from safetensors.torch import load_file

    tensors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
    assert tensors, f"no weights in {folder}"
    return tensors


def assert_same_run(output: Path, other: Path) -> None:
    """Losses, gradient norms, learning rates, evaluations and final weights agree to float32 rounding.

    The weights' tolerance is wider than rounding: where a gradient vanishes, Adam divides noise by noise.
    """
    ours, theirs = steps(output), steps(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        assert mine["learning_rate"] == its["learning_rate"]
        np.testing.assert_allclose(mine["loss"], its["loss"], rtol=1e-5)
        np.testing.assert_allclose(mine["grad_norm"], its["grad_norm"], rtol=1e-4)
    np.testing.assert_allclose(eval_losses(output), eval_losses(other), rtol=1e-5)
    mine, its = weights(output / "final"), weights(other / "final")
    assert mine.keys() == its.keys()
    for name, tensor in mine.items():
        scale = np.abs(its[name]).max()
        np.testing.assert_allclose(tensor, its[name], rtol=0, atol=5e-4 * scale + 1e-7, err_msg=name)
