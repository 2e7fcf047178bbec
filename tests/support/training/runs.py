"""Small training runs: a dataset folder made in memory, settings, and what a run has left behind."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdl_toolkit.compat.datasets_format import DATA_NAME, dataset_info, dataset_state
from mdl_toolkit.data.dataset.manifest import DatasetManifest, arrow_schema
from mdl_toolkit.data.prompt.builder import Encoded, PromptBuilder, processing_fingerprint
from mdl_toolkit.data.prompt.record import PromptRecord, PromptUse
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import flag, given_names

WORDS = ("bell", "dog", "rain", "wind", "a long train", "glass", "voice", "the sea at night", "bird", "car")


def make_dataset(
    path: Path,
    model_folder: Path,
    rows: int = 24,
    seed: int = 0,
    seconds: tuple[float, float] = (0.1, 1.0),
    spread: tuple[float, float] = (1.0, 1.0),
    broken: Sequence[int] = (),
    answers: bool = True,
    prompt: str = "What is it?",
    words: Sequence[int] = (1, 1, 2, 5),
) -> Path:
    """A converted folder of random clips with answers of very different lengths.

    Args:
        path: To be made.
        model_folder: Whose tokenizer and template are used.
        rows: Number of clips.
        seed: Of the clips and answers.
        seconds: Shortest and longest clip.
        spread: Of lengths between them: parameters of a beta distribution, which is even for 1 and 1.
        broken: Rows whose stored clip has another length than the table says: reading them is an error.
        answers: Whether rows have any.
        prompt: Of the user.
        words: Numbers of sounds that an answer names, of which one is drawn.
    """
    path.mkdir(parents=True)
    chance, numbers = random.Random(seed), np.random.default_rng(seed)
    builder = PromptBuilder(model_folder)
    table: list[dict[str, Any]] = []
    for line in range(rows):
        samples = int(16000 * (seconds[0] + (seconds[1] - seconds[0]) * chance.betavariate(*spread)))
        answer = " and ".join(chance.choices(WORDS, k=chance.choice(words)))
        encoded = builder.encode(
            None, prompt, builder.geometry.audio_tokens(samples), answer if answers else None
        )
        tone = np.sin(np.arange(samples) * chance.uniform(0.02, 0.9))
        sound = tone * 8000 + numbers.normal(0, 300, samples)
        table.append(_row(line, encoded, sound, cut=100 if line in broken else 0))
    _write_dataset(path, table, f"test-{rows}-{seed}", model_folder, PromptUse(None, prompt, rows))
    return path


def _row(line: int, encoded: Encoded, sound: Any, cut: int) -> dict[str, Any]:
    return {
        "input_ids": encoded.input_ids.tolist(),
        "labels": encoded.labels.tolist(),
        "audio": sound[: len(sound) - cut].astype("<i2").tobytes(),
        "samples": len(sound),
        "supervised": encoded.supervised,
        "line": line + 2,
        "source": f"clip{line}.wav",
        "start": None,
        "end": None,
    }


def _write_dataset(
    path: Path, table: list[dict[str, Any]], fingerprint: str, model_folder: Path, prompt: PromptUse
) -> None:
    import pyarrow as pa

    builder = PromptBuilder(model_folder)
    schema = arrow_schema()
    with pa.OSFile(str(path / DATA_NAME), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(table, schema=schema), max_chunksize=8)
    manifest = DatasetManifest(
        fingerprint=fingerprint,
        group=fingerprint,
        processing_fingerprint=processing_fingerprint(model_folder),
        source={"name": "train.csv", "sha256": "0"},
        prompts=PromptRecord(seen=(prompt,)),
        geometry=vars(builder.geometry),
        audio_token_id=builder.audio_token_id,
        storage="pcm16",
        rows=len(table),
        seconds=sum(row["samples"] for row in table) / 16000,
        tokens=sum(len(row["input_ids"]) for row in table),
        supervised=sum(row["supervised"] for row in table),
        files={DATA_NAME: (path / DATA_NAME).stat().st_size},
    )
    (path / "mdl_dataset.json").write_text(json.dumps(manifest.to_json()))
    (path / "dataset_info.json").write_text(json.dumps(dataset_info(schema)))
    (path / "state.json").write_text(json.dumps(dataset_state(manifest.fingerprint)))


def run_settings(model: Path, data: Path, output: Path, **changes: Any) -> TrainSettings:
    """Settings of a run of a few steps in this process."""
    values: dict[str, Any] = {
        "model_name": str(model), "train_dataset": str(data), "output": output, "batch_size": 4,
        "lr": 1e-3, "lora_rank": 4, "lora_alpha": 8, "data_workers": 0, "save_steps": 1000,
        "train_target": ["encoder", "projector", "decoder"], "num_epochs": 1.0, "warmup_steps": 0,
        "bf16": False,
    }  # fmt: skip
    return TrainSettings(**{**values, **changes})


def metrics_of(output: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def steps_of(output: Path) -> list[dict[str, Any]]:
    """The lines of a run's optimizer steps."""
    return [line for line in metrics_of(output) if "loss" in line]


def weights_of(folder: Path) -> dict[str, Any]:
    """The tensors of a model, adapter or checkpoint folder."""
    from safetensors.torch import load_file

    for name in ("model.safetensors", "adapter_model.safetensors", "overlay.safetensors"):
        if (folder / name).is_file():
            return load_file(folder / name)
    raise AssertionError(f"{folder} has no weights")


def assert_same_bytes(one: Path, other: Path) -> None:
    """Two folders hold the same tensors, bit for bit."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not _same(first[name], second[name])]
    assert not different, different


def _same(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


def command(settings: TrainSettings) -> list[str]:
    """The command line of some settings, for a process of its own."""
    words = [sys.executable, "-m", "mdl_toolkit", "train"]
    for name in sorted(given_names(settings)):
        value = getattr(settings, name)
        if value is None or value == []:
            continue
        for item in value if isinstance(value, list) else [value]:
            words += [flag(name), str(item).lower() if isinstance(item, bool) else str(item)]
    return words


def environment(**changes: str) -> dict[str, str]:
    """Of a process that trains: one thread, no network, no launcher."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "ACCELERATE"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **changes}
