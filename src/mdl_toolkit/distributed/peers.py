"""The processes of a launch, as inference needs them: who am I, and which device is mine.

There are no collectives: rows are divided by number, and results meet in the journal's files. So a launcher's
restart, a late process or one that is gone can't leave the others in the middle of an exchange.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdl_toolkit.distributed.place import place_of
from mdl_toolkit.errors import MdlError
from mdl_toolkit.terminal.console import tell_torchrun

if TYPE_CHECKING:
    import torch

#: Seconds that the other processes wait with a mistake that the first one has found too.
_MODESTY = 30.0


@dataclass(frozen=True)
class Ranks:
    """One process among those of a launch; alone outside of any launcher."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> Ranks:
        """What torchrun, accelerate or a person says in RANK, WORLD_SIZE and LOCAL_RANK."""
        place = place_of()
        return cls(place.rank, place.world_size, place.local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the output."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This process's own device."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def mine(self, number: int) -> bool:
        """Whether the batch of this number is this process's."""
        return number % self.size == self.rank

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Name the process in its errors, and tell them to torchrun, which shows them last."""
        try:
            yield
        except Exception as error:
            if self.size > 1:
                text = " ".join(str(error).split()) or type(error).__name__
                if isinstance(error, MdlError):
                    error.args = (f"rank {self.rank}: {text}",)
                tell_torchrun(f"rank {self.rank}: {text}")
            raise

    @contextmanager
    def first_speaks(self) -> Iterator[None]:
        """What is wrong for all processes is said by the first; its end makes the launcher end the others."""
        try:
            yield
        except MdlError:
            if not self.is_main:
                time.sleep(_MODESTY)
            raise
