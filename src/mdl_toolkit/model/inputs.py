"""Checks and small rearrangements of what callers give the model.

Dimensions: B rows, T tokens (of the longest row, or of all rows where packed), S samples (likewise of clips),
A audio tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mdl_toolkit.errors import ModelError


def pad_in_front(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move each row's padding before its tokens, which keep their order: [B, T] both."""
    order = attention_mask.ne(0).to(torch.int8).argsort(dim=1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def check_placeholders(found: Sequence[int], features: Sequence[int]) -> None:
    """Compare the placeholders of each row with the features of its clips, which come in order.

    Args:
        found: Placeholders of each row.
        features: Audio features of each clip.

    Raises:
        ModelError: Naming the first row where they differ, and both numbers.
    """
    place = 0
    for row, placeholders in enumerate(found):
        total = 0
        while total < placeholders and place < len(features):
            total += features[place]
            place += 1
        if total != placeholders:
            one_each = len(features) == len(found)
            clips = f"its clip makes {features[row]}" if one_each else f"its clips make {total}"
            raise ModelError(
                f"row {row} of the batch has {placeholders} audio placeholders, but {clips} audio features: "
                "convert the data again with this model"
            )
    if place < len(features):
        raise ModelError(
            f"the text has {sum(found)} audio placeholders, but the {len(features)} clips make "
            f"{sum(features)} audio features"
        )


def check_packed(
    input_ids: Tensor, audio_positions: Tensor, features: Sequence[int], sequence_lengths: Sequence[int]
) -> None:
    """Compare the placeholders of packed rows with the features of their clips.

    Args:
        input_ids: [T] the rows end to end.
        audio_positions: [A] placeholders in ``input_ids``.
        features: Audio features of each clip.
        sequence_lengths: Tokens of each row.

    Raises:
        ModelError: Naming both numbers, and the row where they differ.
    """
    if sum(sequence_lengths) != input_ids.shape[0]:
        raise ModelError(
            f"sequence_lengths add up to {sum(sequence_lengths)}, but there are {input_ids.shape[0]} tokens"
        )
    # Rows are compared one by one where that costs nothing: on the host, or when it goes wrong anyway.
    if audio_positions.device.type == "cpu" or audio_positions.shape[0] != sum(features):
        ends = np.cumsum(sequence_lengths)
        rows = np.searchsorted(ends, audio_positions.cpu().numpy(), side="right")
        check_placeholders(np.bincount(rows, minlength=len(ends)).tolist(), features)


def lengthen_clips(waveform: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Clips that lie end to end, [S], with zeros added to each up to its length in ``after``."""
    clips = zip(torch.split(waveform, list(before)), after, strict=True)
    return torch.cat([F.pad(clip, (0, length - clip.shape[0])) for clip, length in clips])


def host_lengths(audio_length: Any, input_values: Tensor) -> list[int]:
    """Samples of each clip as ints; all of a row where nothing is said."""
    if audio_length is None:
        return [input_values.shape[1]] * input_values.shape[0]
    if isinstance(audio_length, Tensor):
        audio_length = audio_length.tolist()
    lengths = [int(length) for length in audio_length]
    if len(lengths) != input_values.shape[0]:
        raise ModelError(f"audio_length names {len(lengths)} clips, but there are {input_values.shape[0]}")
    longest = max(lengths, default=0)
    if longest > input_values.shape[1]:
        raise ModelError(f"audio_length says {longest} samples, but clips have {input_values.shape[1]}")
    return lengths
