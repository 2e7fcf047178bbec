"""The published forward of one row alone, as the measure of what faster ways compute."""

from __future__ import annotations

from typing import Any

import torch

from mdl_toolkit.generation.answer import Prompt


@torch.no_grad()
def plain_logprobs(model: Any, prompt: Prompt, said: list[int]) -> list[float]:
    """Log-probabilities of tokens after a prompt: a log-softmax of the logits of the whole, nothing else."""
    ids = torch.cat([torch.from_numpy(prompt.input_ids), torch.tensor(said, dtype=torch.long)])[None]
    waveform = torch.from_numpy(prompt.waveform)[None]
    logits = model(input_ids=ids, input_values=waveform, audio_length=[waveform.shape[1]]).logits[0]
    places = torch.arange(len(said)) + len(prompt.input_ids) - 1
    every = torch.log_softmax(logits[places].double(), -1)
    found: list[float] = every[torch.arange(len(said)), said].tolist()
    return found
