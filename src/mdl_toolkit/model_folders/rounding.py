"""What writing weights in a smaller dtype takes of a training.

A small update of a large weight is less than half the distance between two numbers of bfloat16: rounding
takes all of it, and what is left is the base.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

#: Elements that are compared at a time.
_PIECE = 1 << 22
#: Share of its update that a part has to keep. Measured: the loss goes back by about the share that is lost.
WORTH_HAVING = 0.95


@dataclass
class Kept:
    """Sums over the weights of a part.

    Attributes:
        changed: Weights that training has changed.
        survived: Those of them that are still another number once both are rounded.
        update: Sum of squares of the update: trained less before.
        along: Sum of products of the update and what is left of it.
        rounded: Weights that the smaller dtype can't hold as they are.
    """

    changed: int = 0
    survived: int = 0
    update: float = 0.0
    along: float = 0.0
    rounded: int = 0

    @property
    def share(self) -> float:
        """How much of the update is left, in its own direction: 1 is all of it, 0 nothing."""
        return min(1.0, max(0.0, self.along / self.update)) if self.update else 1.0


@dataclass
class Rounding:
    """What is left of an update, by part of the model (as ``--train-target`` names them)."""

    parts: dict[str, Kept] = field(default_factory=dict)

    def add(self, part: str, before: Tensor, trained: Tensor, dtype: torch.dtype) -> None:
        """Count a tensor in.

        Args:
            part: Where it belongs.
            before: What training began with.
            trained: What it ended with, unrounded, of the same shape.
            dtype: That it shall be written in.
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
        return all(part.share >= WORTH_HAVING for part in self.parts.values())
