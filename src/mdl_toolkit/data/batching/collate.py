"""A packed batch as tensors: everything laid end to end, no padding but that of very short clips."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from mdl_toolkit.data.audio.pcm16 import PCM16_SCALE
from mdl_toolkit.data.batching.packing import BatchHeader, Packed


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch without padding. T tokens, A audio tokens, N supervised tokens, S samples, B clips.

    Two clips, of 5,000 and 100 samples (1 audio token each), answers of 1 token::

        input_ids         [T=11]  im_start AUDIO … yes im_end | im_start AUDIO … no im_end
        position_ids      [T]     0 1 2 3 4 5 | 0 1 2 3 4
        audio_positions   [A=2]   1 7
        target_positions  [N=4]   3 4 8 9          (the token after each is supervised)
        targets           [N]     yes im_end no im_end
        waveform          [S=8200]  5,000 samples | 100 samples, 3,100 zeros
        sequence_lengths  (6, 5)
        audio_samples     (5000, 3200)

    Attributes:
        input_ids: int64 [T].
        position_ids: int64 [T], from 0 in every row.
        audio_positions: int64 [A]; where ``input_ids`` has a placeholder, in order.
        target_positions: int64 [N]; positions whose *next* token is supervised.
        targets: int64 [N]; that next token.
        waveform: float32 [S]; the clips end to end, each zero-padded to at least 3,200 samples.
        sequence_lengths: The number of tokens of each row, on the host.
        audio_samples: The number of samples of each clip in ``waveform`` (after padding), on the host.
        rows: Names of the rows, for messages.
        indices: The rows' indices in their dataset.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    audio_positions: torch.Tensor
    target_positions: torch.Tensor
    targets: torch.Tensor
    waveform: torch.Tensor
    sequence_lengths: tuple[int, ...]
    audio_samples: tuple[int, ...]
    rows: tuple[str, ...]
    indices: tuple[int, ...]

    @classmethod
    def of(cls, packed: Packed) -> PackedBatch:
        """A batch of :func:`mdl_toolkit.data.batching.packing.pack` as tensors, which share its memory."""
        values = {f.name: getattr(packed, f.name) for f in fields(cls)}
        return cls(**{name: _tensor(value) for name, value in values.items()})

    @classmethod
    def from_message(cls, header: BatchHeader, body: torch.Tensor, device: torch.device | str) -> PackedBatch:
        """A batch from another process, on a device: copied at once, and converted to its own types there.

        Args:
            header: What :func:`mdl_toolkit.data.batching.packing.to_message` has said.
            body: uint8, the bytes it came with.
            device: Where the tensors go. The copy from pinned memory to a GPU isn't waited for.
        """
        there = body.to(device, non_blocking=True)
        tensors: dict[str, Any] = {}
        for name, place in header.places.items():
            part = there[place.start : place.start + place.size].view(getattr(torch, place.sent))
            tensor = part.to(getattr(torch, place.meant))
            tensors[name] = tensor.mul_(PCM16_SCALE) if place.sent == "int16" else tensor
        return cls(**tensors, **header.rest)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The batch in page-locked memory, from where a GPU can copy it by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    def model_inputs(self) -> dict[str, Any]:
        """Keywords of the model's packed forward: all but ``rows`` and ``indices``."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rows", "indices")}

    def _each(self, function: Any) -> PackedBatch:
        tensors = {
            f.name: function(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        return replace(self, **tensors)


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
