"""Predictions as tests of inference make them: a table of tones, and the command as Python."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.infer.run import inference
from mdl_toolkit.settings import InferenceSettings
from support.data.clips import tone, write_csv, write_wav


def make_table(folder: Path, rows: int = 10) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        seconds = float(rng.uniform(0.1, 1.5))
        write_wav(folder / f"clips/{row}.wav", tone(seconds, hertz=150 + 60 * row))
        lines.append((f"id-{row}", f"clips/{row}.wav", f"tone {row}", 'a, "b"\nc' if row == 3 else "x"))
    return write_csv(folder / "in.csv", ["id", "audio", "prediction", "note"], lines)


def predict(folder: Path, model: Path, **options: Any) -> list[dict[str, str]]:
    options = {"batch_size": 3, "max_new_tokens": 4, "num_workers": 2, **options}
    output = options.pop("output", folder / "out.csv")
    source = options.pop("input", folder / "in.csv")
    inference(InferenceSettings(input=source, output=output, model_name=str(model), **options))
    with open(output, newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


def watch_rows(monkeypatch: pytest.MonkeyPatch, see) -> None:
    """Show each prompt that is answered to ``see``."""
    stream = Generator.stream

    def watched(self, prompts, slots):
        return stream(self, (see(prompt) or prompt for prompt in prompts), slots)

    monkeypatch.setattr(Generator, "stream", watched)
