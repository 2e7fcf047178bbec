"""A step that was made and isn't recorded yet, and what its micro-batches draw."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdl_toolkit.errors import MdlError
from mdl_toolkit.training.batches.order import Scheduled

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch


class Readback:
    """A few numbers that are being copied to the host; :meth:`read` waits for them."""

    def __init__(self, numbers: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._host.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = numbers

    def read(self) -> list[float]:
        """The numbers, on the host."""
        if self._event is not None:
            self._event.synchronize()
        return [float(number) for number in self._host.tolist()]


@dataclass
class PendingStep:
    """A step whose numbers are still being copied from the device.

    Attributes:
        scheduled: Its place in the run.
        learning_rate: Its learning rate.
        batches: The micro-batches of this process; ``None`` for one that counts for nothing.
        numbers: The gradient norm, then the losses of the micro-batches.
        padding: The number of tokens computed, and of real ones.
        missing: Why this process had no micro-batch for the step. It took part for the others' sake, and no
            process makes the update.
        sums: The sums over the processes, where they are known already.
    """

    scheduled: Scheduled
    learning_rate: float
    batches: list[PackedBatch | None]
    numbers: Readback
    padding: tuple[int, int]
    missing: MdlError | None
    sums: list[float] | None = None

    def loss_sum(self) -> float:
        """The sum of this process's losses; NaN where one of them is not finite."""
        _, *losses = self.numbers.read()
        return math.fsum(losses) if all(map(math.isfinite, losses)) else math.nan


def seed_dropout(seed: int, step: int, slot: int) -> None:
    """Seed what a micro-batch draws by its place in the run alone.

    So a resumed run draws the same without any saved random state, and so do other numbers of processes.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{slot}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)
