"""Real processes that train: killed at random moments, and asked to stop by signals."""

from __future__ import annotations

import os
import random
import re
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
from support.training.runs import (
    assert_same_bytes,
    command,
    make_dataset,
    metrics_of,
    run_settings,
    steps_of,
)

#: Quick steps with a checkpoint after every second one, so that many moments are inside a save.
OPTIONS: dict[str, Any] = {
    "lora_dropout": 0.2, "num_epochs": 10, "batch_size": 2, "save_steps": 2, "save_total_limit": 3,
    "merge_lora": False,
}  # fmt: skip

#: A run that does not end by itself within a test.
ENDLESS: dict[str, Any] = {"num_epochs": 5000, "save_steps": 100000}

#: What the metrics of two equal runs have in common.
TOLD = ("step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_rows")

#: Makes every batch of an evaluation take long: a whole one would take 20 s.
SLOW_EVALUATION = """
import time
from mdl_toolkit.training.trainable import wrap
loss_sum = wrap.Wrapped.loss_sum
def slow(self, *rest):
    sys.stderr.write("evaluating\\n")
    time.sleep(0.4)
    return loss_sum(self, *rest)
wrap.Wrapped.loss_sum = slow
"""

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
    said = rf"stopped: at step {step}; saved {newest}, (\d+\.\d) s after {number.name}; resume with "
    assert re.search(said, forks.told)
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
    assert forks.told.splitlines()[-1].startswith("stopped, not saved: by a second SIGINT with step")


def test_a_second_signal_of_a_scheduler_has_a_code_of_its_own(shop, tmp_path: Path, forks: Forks):
    """Those that come within a second are one request; one that comes later ends the run unsaved."""
    output = tmp_path / "out"
    pid = forks.start(command(run_settings(shop.model, shop.data, output, **ENDLESS))[3:], before=SLOW)
    wait_for_steps(output, pid, 3)
    for _ in range(8):
        os.kill(pid, signal.SIGUSR2)
        time.sleep(0.1)
    assert alive(pid) and "SIGUSR2: finishing this step" in forks.told
    time.sleep(0.5)
    os.kill(pid, signal.SIGUSR2)
    assert forks.exit_code() == 4, forks.told
    assert forks.told.splitlines()[-1] == (
        "stopped, not saved: by a second SIGUSR2 with steps 1 to 3 unsaved"
    )
    assert newest_complete(output) is None


def test_a_signal_ends_an_evaluation_which_is_made_up_for_on_resuming(shop, tmp_path: Path, forks: Forks):
    """Its checkpoint is written once, soon, and the resumed run has every line of the undisturbed one."""
    whole, output, held_out = tmp_path / "whole", tmp_path / "out", tmp_path / "held-out"
    make_dataset(held_out, shop.model, rows=50)
    options = {
        "eval_dataset": str(held_out), "eval_steps": 4, "eval_batch_size": 1, "save_steps": 4,
        "num_epochs": 2, "lora_dropout": 0.2, "save_total_limit": 2,
    }  # fmt: skip
    forks.start(command(run_settings(shop.model, shop.data, whole, **options))[3:])
    assert forks.exit_code() == 0, forks.told
    words = command(run_settings(shop.model, shop.data, output, **options, resume_from_checkpoint="true"))[3:]
    for _ in range(2):  # the second one drops the evaluation that the resumed run makes first
        pid = forks.start(words, before=SLOW_EVALUATION)
        wait_until(lambda: forks.told.count("evaluating") > 3, 60)
        began = time.monotonic()
        os.kill(pid, signal.SIGUSR2)
        assert forks.exit_code() == 140, forks.told
        took = time.monotonic() - began
        assert [line["step"] for line in metrics_of(output)] == [1, 2, 3, 4]
        assert newest_complete(output) == output / "checkpoint-4"
        assert took < 2 * max(line["seconds"] for line in steps_of(output)) + 5, "not the rest of 20 s"
    forks.start(words)
    assert forks.exit_code() == 0, forks.told
    assert_same_bytes(output / "final", whole / "final")
    told = [{name: line.get(name) for name in TOLD} for line in metrics_of(output)]
    assert told == [{name: line.get(name) for name in TOLD} for line in metrics_of(whole)]


@pytest.mark.parametrize("evaluates", [False, True])
def test_a_signal_in_the_last_step_leaves_evaluation_and_final_to_the_resumed_run(
    shop, tmp_path: Path, forks: Forks, evaluates: bool
):
    whole, output = tmp_path / "whole", tmp_path / "out"
    options = {"eval_dataset": str(shop.held_out) if evaluates else None, "max_steps": 3, "save_steps": 3}
    forks.start(command(run_settings(shop.model, shop.data, whole, **options))[3:])
    assert forks.exit_code() == 0, forks.told
    in_last = SLOW.replace("while len(passes) > 3:", "while len(passes) == 3 and not os.path.exists('go'):")
    words = command(run_settings(shop.model, shop.data, output, **options, resume_from_checkpoint="true"))[3:]
    go = tmp_path / "go"
    pid = forks.start(words, before=in_last.replace("'go'", repr(str(go))))
    wait_for_steps(output, pid, 2)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "finishing this step" in forks.told, 10)
    go.touch()
    assert forks.exit_code() == 143, forks.told
    assert newest_complete(output) == output / "checkpoint-3" and not (output / "final").exists()
    assert len(metrics_of(output)) == 3
    forks.start(words)
    assert forks.exit_code() == 0, forks.told
    assert_same_bytes(output / "final", whole / "final")
    assert [line.get("eval_loss") for line in metrics_of(output)] == [
        line.get("eval_loss") for line in metrics_of(whole)
    ]


def test_a_signal_during_a_save_saves_no_other_step(shop, tmp_path: Path, forks: Forks):
    saving = """
import time
from mdl_toolkit.training.checkpoints import checkpointer
write_trained = checkpointer.write_trained
def slow(*rest):
    sys.stderr.write("saving\\n")
    time.sleep(1.0)
    return write_trained(*rest)
checkpointer.write_trained = slow
"""
    output = tmp_path / "out"
    words = command(run_settings(shop.model, shop.data, output, **{**ENDLESS, "save_steps": 2}))[3:]
    pid = forks.start(words, before=saving)
    wait_until(lambda: "saving\n" in forks.told, 60)
    os.kill(pid, signal.SIGUSR1)
    assert forks.exit_code() == 138, forks.told
    assert forks.told.count("saving\n") == 1 and steps_of(output)[-1]["step"] == 2
    said = rf"stopped: at step 2; saved {output}/checkpoint-2, \d+\.\d s after SIGUSR1; resume with"
    assert re.search(said, forks.told), forks.told


def test_a_stop_that_cannot_save_says_why_and_has_the_code_of_it(shop, tmp_path: Path, forks: Forks):
    full = """
from mdl_toolkit.training.checkpoints import checkpointer
def write_trained(*_):
    raise OSError(28, "No space left on device")
checkpointer.write_trained = write_trained
"""
    output = tmp_path / "out"
    pid = forks.start(command(run_settings(shop.model, shop.data, output, **ENDLESS))[3:], before=full)
    wait_for_steps(output, pid)
    os.kill(pid, signal.SIGTERM)
    assert forks.exit_code() == 4, forks.told
    last = forks.told.splitlines()[-1]
    assert last.startswith("stopped, not saved: at step ") and "No space left on device" in last


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 4), (signal.SIGHUP, 4), (signal.SIGUSR2, 4), (signal.SIGINT, 130)]
)
def test_before_the_first_step_a_signal_ends_in_a_line(
    shop, tmp_path: Path, forks: Forks, number: signal.Signals, code: int
):
    """Nothing is saved, and the exit code tells a scheduler so."""
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
    assert forks.exit_code() == code, forks.told
    assert forks.told.partition("loading\n")[2].splitlines() == [
        f"stopped, not saved: by {number.name} before the first step was finished; nothing that was saved is "
        "lost; resume with --resume-from-checkpoint true, which starts anew where there is no checkpoint yet"
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
    assert forks.exit_code() == 4, forks.told
    assert forks.told.splitlines()[-1] == (
        "stopped, not saved: by SIGTERM before the first step was finished"
    )


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
