"""What is said on the hosts that print nothing else of a run."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.errors import Stopped
from mdl_toolkit.training.summary import said_on_every_host

HOSTS = ("node-a", "node-a", "node-b", "node-b")


def process(rank: int) -> Ranks:
    return cast(Ranks, SimpleNamespace(rank=rank, world_size=len(HOSTS), hosts=HOSTS))


def test_each_other_host_says_that_it_takes_part_and_how_it_ended(caplog: pytest.LogCaptureFixture):
    """The host of rank 0 prints all else, and of each other one its first process speaks."""
    caplog.set_level(logging.INFO, logger="mdl_toolkit")
    for rank in (0, 1, 3):
        with said_on_every_host(Path("out"), process(rank)):
            pass
    assert not caplog.messages
    with said_on_every_host(Path("out"), process(2)):
        pass
    with (
        pytest.raises(Stopped),
        said_on_every_host(Path("out"), process(2)),
    ):
        raise Stopped(signal.SIGTERM, "stopped at step 7; saved out/checkpoint-7")
    joined = (
        "host node-b joined as ranks 2, 3 of 4; host node-a (rank 0) prints the run's progress and writes"
    )
    assert caplog.messages == [
        f"{joined} --output out",
        "host node-b: done; out/final is on host node-a",
        f"{joined} --output out",
        "host node-b: stopped at step 7; saved out/checkpoint-7 (on host node-a)",
    ]
