"""Finds the clips of a micro-batch whose loss is not finite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mdl_toolkit.training.trainable.split import split

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.geometry import AudioGeometry
    from mdl_toolkit.training.trainable.wrap import Wrapped


def find_nonfinite_rows(batch: PackedBatch, wrapped: Wrapped) -> list[int]:
    """Compute the loss of each clip alone.

    Args:
        batch: A micro-batch whose loss is not finite.
        wrapped: The model, with the weights that gave this loss.

    Returns:
        The indices of the clips whose own loss is not finite; those of all clips where there is none, or
        where a process must not make passes that the others don't make.
    """
    if wrapped.lockstep:
        return list(batch.indices)
    found = [
        one.indices[0]
        for one in _singles(batch, wrapped.model.geometry)
        if not math.isfinite(float(wrapped.loss_sum(one)))
    ]
    return found or list(batch.indices)


def _singles(batch: PackedBatch, geometry: AudioGeometry) -> list[PackedBatch]:
    if len(batch.indices) == 1:
        return [batch]
    return [one for half in split(batch, geometry) for one in _singles(half, geometry)]
