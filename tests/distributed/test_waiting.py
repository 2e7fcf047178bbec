"""What a process prints while it waits for others."""

from __future__ import annotations

from mdl_toolkit.distributed.waiting import waiting_message


def test_who_waits_says_for_whom_and_why() -> None:
    left = {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "n1"}
    assert waiting_message(2, "at n1:29500", left) == (
        "waiting for 2 other processes at n1:29500, from RANK/WORLD_SIZE in the environment (RANK=0 "
        "WORLD_SIZE=3); if this process is to work alone: unset RANK WORLD_SIZE MASTER_ADDR"
    )
    # torchrun has started them all: nothing is left over.
    assert waiting_message(1, "at n1:29500", {**left, "TORCHELASTIC_RUN_ID": "1"}) == (
        "waiting for 1 other process at n1:29500"
    )
    told = waiting_message(1, "at n1:29500", {**left, "TORCHELASTIC_RUN_ID": "1"}, "1 of 2 processes (…)")
    assert told == "waiting for 1 of 2 processes (…) at n1:29500"
