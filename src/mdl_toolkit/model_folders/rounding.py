"""How much of a training is lost when its weights are written in a smaller dtype.

A small update of a large weight is less than half the distance between two numbers of bfloat16: rounding
takes all of it, and what is left is the base.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

#: Number of elements that are compared at a time.
_PIECE = 1 << 22
#: Share of its update that a part has to keep. Measured: the loss loses about that share of its improvement.
ENOUGH = 0.95


@dataclass
class Kept:
    """Sums over the weights of a part.

    The update of a weight is its value after training minus that before.

    Attributes:
        changed: Number of weights that training has changed.
        survived: Number of those that still differ from before once both are rounded.
        update: Sum of the squared updates.
        along: Sum of the products of each update and what rounding leaves of it.
        rounded: Number of weights that the smaller dtype can't hold as they are.
    """

    changed: int = 0
    survived: int = 0
    update: float = 0.0
    along: float = 0.0
    rounded: int = 0

    @property
    def share(self) -> float:
        """Share of the update that is left, along its own direction: 1 is all of it, 0 nothing."""
        return min(1.0, max(0.0, self.along / self.update)) if self.update else 1.0


@dataclass
class Rounding:
    """What is left of an update, by part of the model (as ``--train-target`` names them)."""

    parts: dict[str, Kept] = field(default_factory=dict)

    def add(self, part: str, before: Tensor, trained: Tensor, dtype: torch.dtype) -> None:
        """Add a tensor to the sums of its part.

        Args:
            part: The part that it belongs to.
            before: The tensor that training began with.
            trained: The tensor that it ended with, unrounded, of the same shape.
            dtype: The dtype that it is to be written in.
        """
        kept = self.parts.setdefault(part, Kept())
        old, new = before.reshape(-1), trained.reshape(-1)
        for start in range(0, new.numel(), _PIECE):
            first, last = old[start : start + _PIECE].float(), new[start : start + _PIECE].float()
            written = last.to(dtype).float()
            update, left = last - first, written - first.to(dtype).float()
            kept.rounded += int((written != last).count_nonzero())
            kept.changed += int(update.count_nonzero())
            kept.survived += int((left != 0).logical_and_(update != 0).count_nonzero())
            kept.update += float(update.dot(update))
            kept.along += float(update.dot(left))

    @property
    def total(self) -> Kept:
        """All parts together."""
        found = Kept()
        for part in self.parts.values():
            for name, value in asdict(part).items():
                setattr(found, name, getattr(found, name) + value)
        return found

    @property
    def is_harmless(self) -> bool:
        """Whether every part keeps nearly all of its update."""
        return all(part.share >= ENOUGH for part in self.parts.values())
