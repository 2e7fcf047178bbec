"""Hosts that are cut off, processes that are stopped, launchers that are killed: named, saved, continued."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mdl_toolkit.training.checkpoints.storage import why_incomplete
from support.processes.altered import altered
from support.processes.launch import Launched, launched, run, torchrun, torchrun_on_both
from support.processes.netns import Host
from support.training.shop import TRAIN, assert_same_run, metrics, steps

pytestmark = pytest.mark.system

#: The long run, in which nothing is saved before its end unless something happens.
UNSAVED = [*TRAIN, "--num-epochs", "8", "--save-steps", "1000"]


def slowly(words: list[str]) -> list[str]:
    """A training whose steps take long enough for something to happen in its middle."""
    return altered("mdl_toolkit.training.steps.loop.Loop._step", "time.sleep(0.2)", words[1:])


@contextmanager
def on_both(hosts: tuple[Host, Host], words: list[str], shop: Path) -> Iterator[tuple[Launched, Launched]]:
    """A launch on each of two hosts: that of rank 0 first."""
    with ExitStack() as stack:
        pair = [stack.enter_context(launched(words, cwd=shop, prefix=host.prefix)) for host in hosts]
        output = shop / words[-1]
        pair[0].until(lambda: made(output) >= 3, "the third step")
        yield (pair[0], pair[1]) if pair[0].rank(0) else (pair[1], pair[0])


def until_it_says(launch: Launched, words: str) -> None:
    """Wait until a launch has printed something."""
    launch.until(lambda: words in launch.output, repr(words))


def made(output: Path) -> int:
    """How many steps a run has recorded."""
    return len(steps(output)) if (output / "metrics.jsonl").exists() else 0


def saved(output: Path) -> list[int]:
    """The steps whose checkpoints are there, all of them whole."""
    found = list(output.glob("checkpoint-*"))
    assert not [why for why in map(why_incomplete, found) if why]
    return sorted(int(path.name.rpartition("-")[2]) for path in found)


def goes_on(output: str, shop: Path, undisturbed: Path, words: list[str]) -> None:
    """Resume a run, and compare it with the undisturbed one: no step is lost, and none is recorded twice."""
    finished = run([*words, "--resume-from-checkpoint", "true"], cwd=shop)
    assert finished.code == 0, finished.output
    assert [line["step"] for line in metrics(shop / output) if "grad_norm" in line] == list(range(1, 25))
    assert_same_run(shop / output, undisturbed)


def test_hosts_that_are_parted_for_good_name_each_other_and_save(
    shop: Path, undisturbed: Path, hosts: tuple[Host, Host]
):
    job = [*UNSAVED, "--peer-timeout", "10", "--output", "parted/"]
    with on_both(hosts, [*torchrun_on_both("parted"), *slowly(job)], shop) as (main, other):
        hosts[1].unplug()
        try:
            for launch, there in ((main, "rank 1 (host "), (other, "rank 0 (host ")):
                until_it_says(launch, "\nerror: ")
                assert f"waiting for {there}" in launch.output, launch.output
                (error,) = re.findall(r"^error: (.*)", launch.output, flags=re.MULTILINE)
                assert error.startswith(there) and "can't be reached" in error, error
                assert "memory" not in error, "it is not known to be dead"
        finally:
            hosts[1].plug()
        finished = main.wait()
        other.wait()  # its launcher first has to reach its rendezvous
    assert "exitcode  : 3" in finished.output, finished.output
    (step,) = saved(shop / "parted")
    assert step == made(shop / "parted") >= 3
    assert f"saved parted/checkpoint-{step}; resume with" in finished.output
    goes_on("parted", shop, undisturbed, [*torchrun(), *job])


def test_a_pause_of_the_network_is_told_of_and_changes_nothing(
    shop: Path, undisturbed: Path, hosts: tuple[Host, Host]
):
    words = [*torchrun_on_both("paused"), *slowly([*UNSAVED, "--output", "paused/"])]
    with on_both(hosts, words, shop) as launches:
        hosts[1].unplug()
        try:
            for launch in launches:
                until_it_says(launch, "waiting for rank ")
        finally:
            hosts[1].plug()
        finished = [launch.wait() for launch in launches]
    assert [ended.code for ended in finished] == [0, 0], finished
    for ended, other in zip(finished, ("rank 1 (host ", "rank 0 (host "), strict=True):
        assert ended.output.count(f"waiting for {other}") == 1, ended.output
        assert re.search(rf"^{re.escape(other)}\S+\) is back after \d+ s$", ended.output, re.MULTILINE)
    assert_same_run(shop / "paused", undisturbed)


def test_a_stopped_process_is_named_and_the_launcher_starts_the_run_again(shop: Path, undisturbed: Path):
    """It is ended by its launcher; the restart goes on from what rank 0 has saved."""
    job = slowly([*UNSAVED, "--peer-timeout", "10", "--output", "frozen/"])
    words = [*torchrun("--max-restarts", "1"), *job]
    env = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "2"}
    with launched(words, cwd=shop, env=env) as launch:
        launch.until(lambda: made(shop / "frozen") >= 3, "the third step")
        victim = launch.rank(1)
        assert victim is not None
        os.kill(victim, signal.SIGSTOP)
        finished = launch.wait()
    assert finished.code == 0, finished.output
    assert "waiting for rank 1 (host " in finished.output, finished.output
    (error,) = re.findall(r"^error: (.*)", finished.output, flags=re.MULTILINE)
    assert error.startswith("rank 1 (host ") and "SIGSTOP" in error and "saved frozen/checkpoint-" in error
    assert re.search(r"resuming from frozen/checkpoint-\d+: step \d+ of 24", finished.output)
    assert_same_run(shop / "frozen", undisturbed)


def test_a_launcher_that_is_killed_alone_costs_nothing(shop: Path):
    words = [*torchrun(), *slowly([*UNSAVED, "--output", "orphans/"])]
    with launched(words, cwd=shop) as launch:
        launch.until(lambda: made(shop / "orphans") >= 3, "the third step")
        launch.signal(signal.SIGKILL)
        launch.process.wait(60)
        end = time.monotonic() + 60
        while launch.processes() and time.monotonic() < end:
            time.sleep(0.1)
        assert not launch.processes()
        said = launch.output
    assert "the launcher of this run is gone" in said, said
    (step,) = saved(shop / "orphans")
    assert step == made(shop / "orphans") < 24
    assert f"stopped: at step {step}; saved orphans/checkpoint-{step}" in said, said
