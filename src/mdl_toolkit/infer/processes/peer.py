"""The processes of a launch, as inference needs them: which batches and which device this one has.

There are no collectives: batches are divided by number, and results meet in the journal's files, to which
``link.py`` brings those of other hosts. So a launcher's restart, a late process or one that is gone can't
leave the others in the middle of an exchange.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdl_toolkit.distributed.environment import ProcessRank, process_rank
from mdl_toolkit.distributed.hosts import host_name, rank_on_host
from mdl_toolkit.errors import MdlError, first_error, shortage
from mdl_toolkit.terminal.torchrun import report_failure

if TYPE_CHECKING:
    import torch

#: Seconds that the other processes wait before they raise an error that the main process has found too.
_MAIN_ERROR_FIRST_SECONDS = 30.0


@dataclass(frozen=True)
class Peer(ProcessRank):
    """One process among those of a launch; the only one outside of any launcher."""

    @classmethod
    def of_environment(cls) -> Peer:
        """The process that the launcher's variables (RANK, WORLD_SIZE, LOCAL_RANK) describe."""
        return cls(**vars(process_rank()))

    def name_of(self, rank: int) -> str:
        """Another process as messages name it; its host is known where all are on one."""
        return rank_on_host(rank, host_name()) if self.local_world_size == self.world_size else f"rank {rank}"

    @property
    def is_main(self) -> bool:
        """Whether this process writes the output."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def mine(self, number: int) -> bool:
        """Whether the batch of this number is one of this process's."""
        return number % self.world_size == self.rank

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Name the process in its errors, and pass them to torchrun, which shows them last."""
        try:
            yield
        except Exception as error:
            if self.world_size == 1:
                raise
            short = shortage(error)
            text = f"{self.name}: {short or ' '.join(str(error).split()) or type(error).__name__}"
            report_failure(text, getattr(error, "exit_code", 1))
            if short is not None and first_error(error) is error:
                raise MdlError(text) from error
            if isinstance(error, MdlError):
                error.args = (text,)
            raise

    @contextmanager
    def main_error_first(self) -> Iterator[None]:
        """Let the main process report what is wrong for all; its end makes the launcher end the others."""
        try:
            yield
        except MdlError:
            if not self.is_main:
                time.sleep(_MAIN_ERROR_FIRST_SECONDS)
            raise
