from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from mdl_toolkit.model import MiDashengLMModel
from support.data.rows import noise
from support.models import reference
from support.models.tiny import make_model_folder


@dataclass
class Tiny:
    """A tiny folder, its model, and its weights and config as the reference takes them."""

    folder: Path
    model: MiDashengLMModel
    tensors: dict[str, Any]
    config: dict[str, Any]

    @property
    def placeholder(self) -> int:
        return self.config["audio_token_id"]

    def row(self, samples: int, prompt: int = 3, answer: int = 4, seed: int = 0) -> dict[str, Any]:
        """A prompt with one clip and an answer: ids, labels (the answer is supervised) and the waveform."""
        rng = np.random.default_rng((seed, samples))
        words = rng.integers(0, 1000, prompt + answer)
        tokens = self.model.geometry.audio_tokens(samples)
        ids = [*words[:2], *[self.placeholder] * tokens, *words[2:]]
        return {
            "ids": [int(token) for token in ids],
            "labels": [-100] * (len(ids) - answer) + [int(token) for token in words[-answer:]],
            "waveform": noise(samples, seed),
        }


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tiny]:
    """Makes tiny models, each once: ``tiny("qwen3", tie=True)``."""
    made: dict[str, Tiny] = {}

    def make(decoder: str = "qwen2", **overrides: Any) -> Tiny:
        key = json.dumps([decoder, overrides], sort_keys=True)
        if key not in made:
            folder = make_model_folder(tmp_path_factory.mktemp("tiny"), decoder=decoder, **overrides)
            made[key] = Tiny(
                folder=folder,
                model=MiDashengLMModel.from_pretrained(folder),
                tensors=reference.load_tensors(folder / "model.safetensors"),
                config=json.loads((folder / "config.json").read_text()),
            )
        one = made[key]
        one.model.eval().requires_grad_(True).zero_grad()
        return one

    return make
