"""Real processes that train: killed at random moments, and asked to stop by signals."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.training.checkpoints.state import checkpoints
from mdl_toolkit.training.checkpoints.storage import newest_complete, why_incomplete
from support.processes.forks import Forks, serving_forks
from support.training.runs import assert_same_bytes, command, run_settings, steps_of

#: Quick steps with a checkpoint after every second one, so that many moments are inside a save.
OPTIONS: dict[str, Any] = {
    "lora_dropout": 0.2, "num_epochs": 10, "batch_size": 2, "save_steps": 2, "save_total_limit": 3,
    "merge_lora": False,
}  # fmt: skip

#: A run that does not end by itself within a test.
ENDLESS: dict[str, Any] = {"num_epochs": 5000, "save_steps": 100000}

#: Makes every micro-batch after the third one last for ever, as on a slow machine.
SLOW = """
import time
from mdl_toolkit.training.trainable import wrap
original, passes = wrap.Wrapped.micro_batch, []
def slow(self, *rest):
    passes.append(1)
    while len(passes) > 3:
        time.sleep(0.05)
    return original(self, *rest)
wrap.Wrapped.micro_batch = slow
"""


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with serving_forks(tmp_path_factory.mktemp("forks")) as server:
        yield server


def test_killed_at_thirty_random_moments_it_ends_as_if_undisturbed(shop, tmp_path: Path, forks: Forks):
    whole, output = tmp_path / "whole", tmp_path / "out"
    # Undisturbed, but otherwise alike: the same kind of process, with as many threads.
    forks.start(command(run_settings(shop.model, shop.data, whole, **OPTIONS))[3:])
    assert forks.exit_code() == 0, forks.told
    words = command(run_settings(shop.model, shop.data, output, **OPTIONS, resume_from_checkpoint="true"))[3:]
    chance = random.Random(0)
    killed = inside_saves = reached = 0
    while killed < 30:
        begun = len(lines_of(output))
        pid = forks.start(words)
        # Soon after it has begun to make steps, most kills hit a step or a save.
        wait_until(lambda at=begun, pid=pid: len(lines_of(output)) > at or not alive(pid), 20)
        if killed % 3 == 0:  # every third time inside a save
            wait_until(lambda pid=pid: any(output.glob(".partial-checkpoint-*")) or not alive(pid), 20)
        else:
            time.sleep(chance.uniform(0, 0.12))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if forks.exit_code() == 0:
            break  # it was done before
        killed += 1
        inside_saves += any(output.glob(".partial-checkpoint-*"))
        newest = newest_complete(output)
        step = int(newest.name.split("-")[1]) if newest else 0
        assert step >= reached, "a kill has taken a complete checkpoint away"
        reached = step
        for path in checkpoints(output):
            assert why_incomplete(path) is None, f"{path.name} has its name but is not whole"
    forks.start(words)
    assert forks.exit_code() == 0, forks.told
    assert killed >= 10 and inside_saves >= 1, (killed, inside_saves)
    assert_same_bytes(output / "final", whole / "final")
    assert [step["loss"] for step in steps_of(output)] == [step["loss"] for step in steps_of(whole)]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 138),
        (signal.SIGUSR2, 140),
        (signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_the_process_with_its_code_and_everything_saved(
    shop, tmp_path: Path, forks: Forks, number: signal.Signals, code: int
):
    output = tmp_path / "out"
    pid = forks.start(command(run_settings(shop.model, shop.data, output, **ENDLESS))[3:])
    wait_for_steps(output, pid)
    os.kill(pid, number)
    assert forks.exit_code() == code, forks.told
    newest = newest_complete(output)
    assert newest is not None
    step = int(newest.name.split("-")[1])
    assert f"stopped: stopped at step {step}; saved {newest}" in forks.told
    assert "--resume-from-checkpoint true" in forks.told.splitlines()[-1]
    assert steps_of(output)[-1]["step"] == step
    assert "Traceback" not in forks.told


def test_a_hangup_that_was_ignored_from_the_start_stays_so(shop, tmp_path: Path, forks: Forks):
    """As ``nohup`` starts it."""
    output = tmp_path / "out"
    nohup = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    pid = forks.start(command(run_settings(shop.model, shop.data, output, **ENDLESS))[3:], before=nohup)
    wait_for_steps(output, pid)
    os.kill(pid, signal.SIGHUP)
    wait_for_steps(output, pid, len(lines_of(output)) + 3)
    assert newest_complete(output) is None
    os.kill(pid, signal.SIGTERM)
    assert forks.exit_code() == 143, forks.told


def test_a_terminal_that_is_closed_sends_more_than_one_signal(shop, tmp_path: Path, forks: Forks):
    """The system, the shell, and a service manager after its SIGTERM: all of them mean one request."""
    output = tmp_path / "out"
    pid = forks.start(command(run_settings(shop.model, shop.data, output, **ENDLESS))[3:], before=SLOW)
    wait_for_steps(output, pid, 3)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
        os.kill(pid, number)
        wait_until(lambda: "SIGTERM: finishing this step" in forks.told, 10)
    time.sleep(0.2)
    assert alive(pid), "none of them was the second"
    os.kill(pid, signal.SIGINT)
    assert forks.exit_code() == -signal.SIGINT


def test_the_whole_process_group_may_get_the_signal(shop, tmp_path: Path, forks: Forks):
    """As a terminal sends Ctrl-C: workers that prepare batches don't die of it, and say nothing."""
    output = tmp_path / "out"
    settings = run_settings(shop.model, shop.data, output, **ENDLESS, data_workers=2)
    pid = forks.start(command(settings)[3:])
    wait_for_steps(output, pid)
    os.killpg(pid, signal.SIGINT)
    assert forks.exit_code() == 130, forks.told
    assert newest_complete(output) is not None
    assert "Traceback" not in forks.told and "KeyboardInterrupt" not in forks.told
    wait_until(lambda: not group_members(pid), 15)
    assert not group_members(pid), "workers outlive the run"


def test_workers_end_with_a_killed_run(shop, tmp_path: Path, forks: Forks):
    output = tmp_path / "out"
    settings = run_settings(shop.model, shop.data, output, **ENDLESS, data_workers=2)
    pid = forks.start(command(settings)[3:])
    wait_for_steps(output, pid)
    assert len(group_members(pid)) >= 3
    os.kill(pid, signal.SIGKILL)
    assert forks.exit_code() == -signal.SIGKILL
    wait_until(lambda: not group_members(pid), 20)
    assert not group_members(pid), "workers outlive the run"


def test_a_second_signal_ends_at_once(shop, tmp_path: Path, forks: Forks):
    output = tmp_path / "out"
    pid = forks.start(command(run_settings(shop.model, shop.data, output, **ENDLESS))[3:], before=SLOW)
    wait_for_steps(output, pid, 3)
    os.kill(pid, signal.SIGINT)
    wait_until(lambda: "SIGINT" in forks.told, 10)
    assert alive(pid), "the first lets the step finish"
    os.kill(pid, signal.SIGINT)
    assert forks.exit_code() == -signal.SIGINT
    assert "SIGINT: finishing this step, then saving (again: stop at once)" in forks.told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_before_the_first_step_a_signal_ends_in_a_line(
    shop, tmp_path: Path, forks: Forks, number: signal.Signals
):
    output = tmp_path / "out"
    loading = """
import time
from mdl_toolkit.training import run as training
def prepare(*_):
    sys.stderr.write("loading\\n")
    time.sleep(600)
training.prepare = prepare
"""
    pid = forks.start(command(run_settings(shop.model, shop.data, output))[3:], before=loading)
    wait_until(lambda: "loading" in forks.told, 60)
    os.kill(pid, number)
    assert forks.exit_code() == 128 + number, forks.told
    assert forks.told.partition("loading\n")[2].splitlines() == [
        f"stopped by {number.name}: nothing that was saved is lost; resume with --resume-from-checkpoint "
        "true, which starts anew where there is no checkpoint yet"
    ]


def test_a_process_that_is_stuck_in_c_ends_by_a_signal_all_the_same(shop, tmp_path: Path, forks: Forks):
    """As one does that waits for others in a library which knows nothing of Python's handlers."""
    stuck = """
import ctypes
from mdl_toolkit.terminal import interrupts
from mdl_toolkit.training import run as training
interrupts.PATIENCE = (0.5, 0.1)
def prepare(*_):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG, *interrupts.STOP_SIGNALS])
    sys.stderr.write("loading\\n")
    ctypes.CDLL(None).sleep(600)
training.prepare = prepare
"""
    output = tmp_path / "out"
    pid = forks.start(command(run_settings(shop.model, shop.data, output))[3:], before=stuck)
    wait_until(lambda: "loading" in forks.told, 60)
    os.kill(pid, signal.SIGTERM)
    assert forks.exit_code() == 143, forks.told
    assert forks.told.splitlines()[-1] == "stopped by SIGTERM"


def test_a_failure_is_one_line_and_its_code(shop, tmp_path: Path, forks: Forks):
    output = tmp_path / "out"
    (output / "final").mkdir(parents=True)
    forks.start(command(run_settings(shop.model, shop.data, output))[3:])
    assert forks.exit_code() == 2
    assert forks.told.startswith(f"error: --output {output} has a run in it already")
    assert len(forks.told.splitlines()) == 1


def wait_for_steps(output: Path, pid: int, count: int = 2) -> None:
    wait_until(lambda: len(lines_of(output)) >= count or not alive(pid), 60)
    assert len(lines_of(output)) >= count, "no step was made"


def wait_until(condition: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)


def lines_of(output: Path) -> list[str]:
    path = output / "metrics.jsonl"
    with suppress(FileNotFoundError):
        return path.read_text().splitlines()
    return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def group_members(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            state, _, member_of = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(member_of) == group and state not in "ZX":
                found.append(int(entry.name))
    return found
