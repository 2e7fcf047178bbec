"""A process group of which one process is real: collectives return at once and change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def fake_group(rank: int, world_size: int) -> Iterator[None]:
    """Be one process of a group within the block.

    Args:
        rank: The rank of this process.
        world_size: The number of processes that there seem to be.
    """
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    yield
    torch.distributed.destroy_process_group()
