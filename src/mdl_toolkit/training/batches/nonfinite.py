"""Finds the clips of a micro-batch whose loss is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from mdl_toolkit.training.trainable.split import split

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.geometry import AudioGeometry
    from mdl_toolkit.training.trainable.wrap import Wrapped


def find_nonfinite_rows(
    batch: PackedBatch, wrapped: Wrapped, interrupted: Callable[[], bool] = lambda: False
) -> list[int]:
    """Compute the loss of each clip alone.

    Args:
        batch: A micro-batch whose loss is not finite.
        wrapped: The model, with the weights that gave this loss.
        interrupted: Says whether to look no further; it is asked before each clip.

    Returns:
        The indices of the clips whose own loss is not finite; those of all clips where none was found, or
        where a process must not make passes that the others don't make.
    """
    if wrapped.lockstep:
        return list(batch.indices)
    found = [
        one.indices[0]
        for one in _singles(batch, wrapped.model.geometry)
        if not interrupted() and not math.isfinite(float(wrapped.loss_sum(one)))
    ]
    return found or list(batch.indices)


def _singles(batch: PackedBatch, geometry: AudioGeometry) -> list[PackedBatch]:
    if len(batch.indices) == 1:
        return [batch]
    return [one for half in split(batch, geometry) for one in _singles(half, geometry)]
