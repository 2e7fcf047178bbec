"""Rows as the published, padded forward takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mdl_toolkit.generation.answer import Prompt


def padded_inputs(
    prompts: Sequence[Prompt], texts: Sequence[NDArray[np.int64]], pad: int, device: torch.device
) -> dict[str, Any]:
    """The arguments of the padded forward: tokens padded in front, waveforms at the end.

    Args:
        prompts: The rows, for their clips.
        texts: Tokens of each row: its prompt, or the prompt and what follows it.
        pad: The token to fill up with; it is masked.
        device: Where the tensors go.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, T], ``input_values`` [B, S], and ``audio_length``, samples
        of each clip, on the host.
    """
    longest, samples = max(map(len, texts)), [len(prompt.waveform) for prompt in prompts]
    ids = torch.full((len(texts), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    waveform = torch.zeros(len(texts), max(samples))
    for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        ids[row, longest - len(text) :] = torch.from_numpy(text)
        mask[row, longest - len(text) :] = 1
        waveform[row, : samples[row]] = torch.from_numpy(prompt.waveform)
    return {
        "input_ids": ids.to(device),
        "attention_mask": mask.to(device),
        "input_values": waveform.to(device),
        "audio_length": samples,
    }
