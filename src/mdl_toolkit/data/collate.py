"""Examples to a packed batch: everything laid end to end, no padding but that of very short clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from mdl_toolkit.data.dataset import Example
from mdl_toolkit.data.prompt import IGNORED
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import MIN_SAMPLES, AudioGeometry


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
        sequence_lengths: Tokens of each row, on the host.
        audio_samples: Samples of each clip in ``waveform`` (after padding), on the host.
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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The batch in page-locked memory; a DataLoader with ``pin_memory=True`` calls this."""
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


def collate(
    examples: Sequence[Example], audio_token_id: int, geometry: AudioGeometry | None = None
) -> PackedBatch:
    """Pack examples into a batch.

    Args:
        examples: At least one.
        audio_token_id: Id of the placeholder.
        geometry: Where given, the number of placeholders of each row is checked against its clip's length.

    Raises:
        DataError: Where a row's placeholders don't match its clip; it names the row and both numbers.
    """
    assert examples, "an empty micro-batch makes no batch"
    smallest = geometry.min_samples if geometry else MIN_SAMPLES
    lengths = [len(example.input_ids) for example in examples]
    samples = [max(len(example.waveform), smallest) for example in examples]
    ids = np.concatenate([example.input_ids for example in examples]).astype(np.int64, copy=False)
    labels = np.concatenate([example.labels for example in examples]).astype(np.int64, copy=False)
    starts = np.cumsum([0, *lengths])
    labels[starts[:-1]] = IGNORED  # nothing comes before a row's first token to predict it from
    waveform = np.zeros(sum(samples), dtype=np.float32)
    offset = 0
    for example, size in zip(examples, samples, strict=True):
        waveform[offset : offset + len(example.waveform)] = example.waveform
        offset += size
    supervised = np.flatnonzero(labels != IGNORED)
    audio = np.flatnonzero(ids == audio_token_id)
    if geometry is not None:
        _check_placeholders(examples, samples, np.searchsorted(audio, starts), geometry)
    return PackedBatch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])),
        audio_positions=torch.from_numpy(audio),
        target_positions=torch.from_numpy(supervised - 1),
        targets=torch.from_numpy(labels[supervised]),
        waveform=torch.from_numpy(waveform),
        sequence_lengths=tuple(lengths),
        audio_samples=tuple(samples),
        rows=tuple(example.row for example in examples),
        indices=tuple(example.index for example in examples),
    )


def _check_placeholders(
    examples: Sequence[Example], samples: Sequence[int], ends: Any, geometry: AudioGeometry
) -> None:
    for example, size, found in zip(examples, samples, np.diff(ends).tolist(), strict=True):
        expected = geometry.audio_tokens(size)
        if found != expected:
            raise DataError(
                f"{example.row}: {found} audio placeholders in the text, but its clip of "
                f"{len(example.waveform)} samples makes {expected} audio tokens"
            )
