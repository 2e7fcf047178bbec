"""Launcher variables that were left in a shell: a command says what it waits for, and how not to."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from mdl_toolkit.distributed.hosts import host_name
from support.processes.launch import free_port, launched
from support.training.shop import TRAIN

pytestmark = pytest.mark.system


def _variables(rank: int, port: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.mark.parametrize("rank", [0, 1])
def test_training_says_it_soon_hears_signals_meanwhile_and_goes_on_when_the_other_comes(
    rank: int, shop: Path
):
    port = free_port(20000, 29000)
    others = "rank 0" if rank else f"1 of 2 processes (ready: host {host_name()} (rank 0); missing: rank 1)"
    said = (
        f"waiting for {others} at 127.0.0.1:{port}, from RANK/WORLD_SIZE in the environment "
        f"(RANK={rank} WORLD_SIZE=2); if this process is to work alone: unset RANK WORLD_SIZE MASTER_ADDR "
        "MASTER_PORT"
    )
    words = [*TRAIN, "--output", f"waited-{rank}/"]
    with launched(words, cwd=shop, env=_variables(rank, port)) as launch:
        launch.until(lambda: said in launch.output, "it says so")
        launch.signal(signal.SIGTERM)
        assert launch.wait().code == 4  # stopped, and nothing was there to save
    with launched(words, cwd=shop, env=_variables(rank, port)) as launch:
        launch.until(lambda: said in launch.output, "it says so again")
        with launched(words, cwd=shop, env=_variables(1 - rank, port)) as other:
            assert other.wait().code == 0, other.output
        assert launch.wait().code == 0, launch.output
    assert (shop / f"waited-{rank}" / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize("address", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_leads_nowhere_is_named_too(address: str, shop: Path):
    variables = {**_variables(0, free_port(20000, 29000)), "MASTER_ADDR": address}
    with launched([*TRAIN, "--output", "nowhere/"], cwd=shop, env=variables) as launch:
        launch.until(lambda: f"missing: rank 1) at {address}:" in launch.output, "it says so")
        launch.signal(signal.SIGTERM)
        assert launch.wait().code == 4  # stopped, and nothing was there to save
    assert "c10d" not in launch.output  # torch's own warnings


def test_inference_says_it_too(shop: Path):
    words = ["mdl-toolkit", "inference", "test.csv", "--model-name", "alone/final", "--output"]
    for rank, what in ((0, "to start"), (1, "to begin")):
        said = f"waiting for 1 other process {what}: rank {1 - rank}"
        with launched([*words, f"waited-{rank}.csv"], cwd=shop, env=_variables(rank, 1)) as launch:
            launch.until(lambda: said in launch.output, "it says so")  # noqa: B023 -- called before the next round
            assert ", from RANK/WORLD_SIZE in the environment" in launch.output
            launch.signal(signal.SIGTERM)
            assert launch.wait().code == 143, launch.output


def test_a_port_that_another_program_has(shop: Path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with launched([*TRAIN, "--output", "taken/"], cwd=shop, env=_variables(0, port)) as launch:
            finished = launch.wait()
    assert finished.code == 2
    assert finished.lines[-1].startswith(f"error: MASTER_PORT={port}: another program listens there")
