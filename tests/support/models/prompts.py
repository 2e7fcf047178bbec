"""Prompts with random clips and texts of different lengths, without a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.generation.answer import Prompt


def random_prompts(folder: Path, count: int = 7, budget: int = 12, budgets: int = 3) -> list[Prompt]:
    """The same prompts each time.

    Args:
        folder: Of the model.
        count: Number of prompts.
        budget: Tokens of the answer of the first.
        budgets: Different ones in turn, each a token longer.
    """
    builder = PromptBuilder(folder)
    rng = np.random.default_rng(1)
    prompts = []
    for row in range(count):
        samples = int(rng.integers(800, 40000))
        waveform = (rng.standard_normal(samples) * 0.1).astype(np.float32)
        text = "what " * int(rng.integers(1, 9))
        ids = builder.encode(None, text, builder.geometry.audio_tokens(samples), None).input_ids
        prompts.append(Prompt(ids, waveform, budget + row % budgets, key=row))
    return prompts
