"""Runs that are killed, told to stop and started again, on the same number of processes or another."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from mdl_toolkit.training.checkpoints.storage import why_incomplete
from support.processes.launch import Launched, launched, run, torchrun, torchrun_on_both
from support.processes.netns import Host
from support.training.shop import LONG, assert_same_run, steps

pytestmark = pytest.mark.system


def _saved(output: Path) -> list[int]:
    """Steps whose checkpoints are there."""
    return sorted(int(path.name.rpartition("-")[2]) for path in output.glob("checkpoint-*"))


def _in_its_middle(launch: Launched, output: Path, step: int = 4) -> None:
    launch.until(lambda: _saved(output)[-1:] >= [step], f"checkpoint-{step}")


def _resumed_at(output: str) -> int:
    """The step that a run says it goes on from."""
    found = re.search(r"resuming from \S+: step (\d+) of 24", output)
    assert found, output
    return int(found[1])


def test_a_killed_rank_is_started_again_and_the_run_goes_on_by_itself(shop: Path, undisturbed: Path):
    words = [*torchrun("--max-restarts", "2"), *LONG, "--output", "killed/"]
    with launched(words, cwd=shop) as launch:
        _in_its_middle(launch, shop / "killed")
        launch.kill(0)
        finished = launch.wait()
    assert finished.code == 0, finished.output
    assert 4 <= _resumed_at(finished.output) < 24
    assert_same_run(shop / "killed", undisturbed)


def test_a_rank_killed_on_one_host_brings_back_both(shop: Path, undisturbed: Path, hosts: tuple[Host, Host]):
    """Only the host that lost its process counts a restart; rank 0, on the other one, must resume as well."""
    words = [*torchrun_on_both("lost", "--max-restarts", "2"), *LONG, "--output", "lost/"]
    with (
        launched(words, cwd=shop, prefix=hosts[0].prefix) as first,
        launched(words, cwd=shop, prefix=hosts[1].prefix) as second,
    ):
        _in_its_middle(first, shop / "lost")
        victim, main = (first, second) if first.rank(1) else (second, first)
        victim.kill(1)
        finished = main.wait(), victim.wait()
    assert [ended.code for ended in finished] == [0, 0], finished
    assert 4 <= _resumed_at(finished[0].output + finished[1].output) < 24
    assert_same_run(shop / "lost", undisturbed)


def test_two_processes_told_twice_save_the_same_step_and_stop(shop: Path):
    """Slurm tells every process, helpers included, and torchrun tells them again: one notice, not two."""
    words = [*torchrun(), *LONG, "--data-workers", "1", "--output", "stopped/"]
    with launched(words, cwd=shop) as launch:
        _in_its_middle(launch, shop / "stopped")
        launch.signal(signal.SIGTERM, everyone=True)
        finished = launch.wait()
    assert finished.code == 1, "torchrun's own code, whatever that of its processes"
    done = steps(shop / "stopped")[-1]["step"]
    assert _saved(shop / "stopped")[-1] == done < 24
    assert not (shop / "stopped" / "final").exists()
    stops = [line for line in finished.lines if line.startswith("stopped: ")]
    assert len(stops) == 1 and f"checkpoint-{done}" in stops[0], finished.output
    assert why_incomplete(shop / "stopped" / f"checkpoint-{done}") is None


def test_one_process_is_stopped_and_two_go_on(shop: Path, undisturbed: Path):
    with launched([*LONG, "--batch-size", "8", "--output", "grown/"], cwd=shop) as launch:
        _in_its_middle(launch, shop / "grown")
        launch.signal(signal.SIGTERM)
        finished = launch.wait()
    assert finished.code == 143, finished.output
    done = _saved(shop / "grown")[-1]
    assert finished.lines[-1].startswith(f"stopped: at step {done}"), finished.output
    words = [*torchrun(), *LONG, "--resume-from-checkpoint", "true", "--output", "grown/"]
    finished = run(words, cwd=shop)
    assert finished.code == 0, finished.output
    assert _resumed_at(finished.output) == done < 24
    assert_same_run(shop / "grown", undisturbed)
