"""Signals in real processes: what can be gone on with says so, and the exit code says which signal it was."""

from __future__ import annotations

import os
import pty
import re
import signal
import time
from pathlib import Path

import pytest

from mdl_toolkit.training.checkpoints.storage import newest_complete
from support.processes.altered import altered
from support.processes.launch import Finished, environment, launched, run, torchrun
from support.training.shop import CONVERT, PREDICT, TRAIN, metrics

pytestmark = pytest.mark.system

#: Makes a batch of an evaluation last 0.1 s on rank 0 and five times as long on rank 1: 5.5 s in all.
UNEVEN = """
if len(calls) == 3:
    os.write(2, f"evaluating on rank {os.environ['RANK']}\\n".encode())  # whole: two processes write
time.sleep(0.5 if os.environ["RANK"] == "1" else 0.1)
"""

ENDLESS = [*TRAIN, "--num-epochs", "5000"]

#: Makes a function take long from its fourth call on.
SLOW = """
if len(calls) == 4:
    print("slow now", file=sys.stderr, flush=True)
if len(calls) > 3:
    time.sleep(600)
"""


def stopped(shop: Path, function: str, words: list[str], number: signal.Signals) -> Finished:
    """Run a command until a function of it takes long, and then send a signal."""
    with launched(altered(function, SLOW, words), cwd=shop) as launch:
        launch.until(lambda: "slow now" in launch.output, "the fourth call")
        launch.signal(number)
        return launch.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_conversion(number: signal.Signals, shop: Path):
    output = shop / f"stopped-{number.name}"
    words = [*CONVERT[1:], output.name]
    finished = stopped(shop, "mdl_toolkit.data.conversion.work.Conversion._write", words, number)
    assert finished.code == 128 + number, finished.output
    said = f"stopped by {number.name}: no half dataset is left; the same command starts again"
    assert finished.lines[-1] == said and "Traceback" not in finished.output
    assert not list(shop.glob(f"*{output.name}*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_inference_goes_on_with_the_same_command(number: signal.Signals, shop: Path):
    output = shop / f"stopped-{number.name}.csv"
    words = [*PREDICT[1:], output.name, "--batch-size", "1"]
    finished = stopped(shop, "mdl_toolkit.infer.journal.journal.Journal.add", words, number)
    assert finished.code == 128 + number, finished.output
    said = f"stopped by {number.name}: the answers so far are kept; the same command goes on with them"
    assert finished.lines[-1] == said and "Traceback" not in finished.output
    assert not output.exists()
    finished = run(["mdl-toolkit", *words], cwd=shop)
    assert finished.code == 0 and "resuming the unfinished" in finished.output, finished.output


def test_an_inference_does_not_wait_for_clips_that_are_being_read(shop: Path):
    """Their threads can't be ended, and Python would wait for them."""
    words = [*PREDICT[1:], "reading.csv", "--batch-size", "1"]
    assert stopped(shop, "mdl_toolkit.infer.prompts.RowReader.read", words, signal.SIGTERM).code == 143


def test_a_terminal_that_is_closed_saves(shop: Path):
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(shop)
        os.execvpe(ENDLESS[0], [*ENDLESS, "--output", "hung-up/"], environment(shop))
    metrics, until = shop / "hung-up" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3) and time.monotonic() < until:
        time.sleep(0.05)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert newest_complete(shop / "hung-up") is not None


def test_torchrun_passes_a_hangup_on_and_the_run_saves(shop: Path):
    words = ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", *ENDLESS]
    with launched([*words, "--output", "torchrun-hung-up/"], cwd=shop) as launch:
        metrics = shop / "torchrun-hung-up" / "metrics.jsonl"
        launch.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 3, "the fourth step")
        launch.signal(signal.SIGHUP)
        finished = launch.wait()
    assert finished.code != 0
    assert "SIGHUP: finishing this step, then saving" in finished.output, finished.output
    newest = newest_complete(shop / "torchrun-hung-up")
    assert newest is not None and f"saved torchrun-hung-up/{newest.name}" in finished.output


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_told_in_an_evaluation_is_enough_for_all(rank: int, shop: Path):
    """They drop it together, though one is slower than the other, and save the step that is made."""
    output = shop / f"told-{rank}"
    every_row = {"50": "2", "test-converted/": "train-converted/"}
    training = [every_row.get(word, word) for word in ENDLESS[1:]]
    words = [*training, "--eval-batch-size", "1", "--output", output.name]
    program = altered("mdl_toolkit.training.trainable.wrap.Wrapped.loss_sum", UNEVEN, words)
    with launched([*torchrun(), *program], cwd=shop) as launch:
        launch.until(lambda: f"evaluating on rank {rank}" in launch.output, "the evaluation")
        victim = launch.rank(rank)
        assert victim is not None
        began = time.monotonic()
        os.kill(victim, signal.SIGUSR2)
        finished = launch.wait()
    assert time.monotonic() - began < 25, "no process waits for another one that has nothing more to do"
    assert newest_complete(output) == output / "checkpoint-2"
    assert [line["step"] for line in metrics(output)] == [1, 2], "the evaluation is not reported"
    said = rf"stopped: at step 2; saved {output.name}/checkpoint-2, (\d+\.\d) s after SIGUSR2"
    found = re.search(said, finished.output)
    assert found, finished.output
    # Two batches of the slower process, and the writing; the whole evaluation would take 5.5 s.
    steps = [line["seconds"] for line in metrics(output)]
    assert float(found[1]) < 2 * max(0.5, *steps) + 2
    assert finished.code == 1 and "exitcode  : 140" in finished.output, finished.output


def test_one_that_waits_for_the_writing_of_final_is_enough_too(shop: Path):
    """It hears nothing itself, inside a collective: the signal reaches the process that writes."""
    output = shop / "told-at-last"
    words = [*TRAIN[1:], "--max-steps", "2", "--output", output.name]
    writing = 'print("writing it", file=sys.stderr, flush=True)\nfor _ in range(1200):\n    time.sleep(0.1)\n'
    program = altered("mdl_toolkit.model_folders.trained.TrainedWeights.read", writing, words)
    with launched([*torchrun(), *program], cwd=shop) as launch:
        launch.until(lambda: "writing it" in launch.output, "the writing")
        victim = launch.rank(1)
        assert victim is not None
        os.kill(victim, signal.SIGUSR2)
        began = time.monotonic()
        finished = launch.wait()
    assert time.monotonic() - began < 60, "not the whole two minutes"
    said = f"stopped: all steps are saved, {output.name}/final isn't written; resume with"
    assert said in finished.output and "exitcode  : 140" in finished.output, finished.output
    assert newest_complete(output) == output / "checkpoint-2" and not (output / "final").exists()
