"""Which clip of a micro-batch makes its loss something else than a finite number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mdl_toolkit.training.memory.split import split

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.geometry import AudioGeometry
    from mdl_toolkit.training.trainable.wrap import Wrapped


def find_nonfinite_rows(batch: PackedBatch, wrapped: Wrapped) -> list[int]:
    """Run each clip by itself.

    Args:
        batch: Its loss is not finite.
        wrapped: The model, with the weights that it was computed with.

    Returns:
        Indices of the clips that have such a loss alone; of all clips where none has, or where a process
        can't make passes that the others don't make.
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
