"""Real runs whose data workers come to harm, or have next to no shared memory."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdl_toolkit.training.checkpoints.storage import newest_complete, why_incomplete
from support.data.dataworkers import accident, with_code
from support.processes.launch import Launched, launched, run
from support.training.shop import TRAIN, assert_same_run, steps

pytestmark = pytest.mark.system

WAY_ON = "resume with --resume-from-checkpoint true"
WORKERS = ["--data-workers", "2"]
#: 24 steps, of which the last one alone is saved.
RUN = [*TRAIN, "--num-epochs", "8", "--save-steps", "1000"]
TWO = ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python"]

#: The command line, with an accident for the data workers of one rank.
HARMED = """
import os, sys
from pathlib import Path
from mdl_toolkit.data import child_process
from mdl_toolkit.cli import main
if os.environ.get("RANK", "0") == sys.argv[1]:
    child_process._CODE = sys.argv[2]
main(sys.argv[3:])
"""


def harmed(words: list[str], what: str, rank: int, output: Path) -> list[str]:
    """A command line to whose workers something happens after some steps."""
    from mdl_toolkit.data import child_process

    code = with_code(child_process._CODE, accident(what, after=(output / "metrics.jsonl", 4)))
    return [sys.executable, "-c", HARMED, str(rank), code, *words[1:]]


@pytest.fixture(scope="module")
def little_shared_memory() -> list[str]:
    """Words that run a command with a /dev/shm of 64 KB: less than a single batch."""
    if shutil.which("unshare") is None:
        pytest.skip("a small /dev/shm needs the program 'unshare', which is not installed")
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh"]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"mounting a small /dev/shm is not permitted here: {tried.stderr.strip()}")
    return words


@pytest.mark.parametrize("launcher", [[], TWO], ids=["one process", "two"])
def test_64_kb_of_shared_memory_are_enough(shop: Path, little_shared_memory: list[str], launcher: list[str]):
    output = f"little-{len(launcher)}"
    words = [*launcher, *TRAIN, *WORKERS, "--output", output]
    words += [] if launcher else ["--batch-size", "8"]
    finished = run(words, cwd=shop, prefix=little_shared_memory)
    assert finished.code == 0, finished.output
    assert_same_run(shop / output, shop / "alone")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("is killed", r"was killed by signal 9 (SIGKILL) while it read train.csv row"),
        ("stops", r"is stopped (by SIGSTOP) while it reads train.csv row"),
        ("loses its thread", r"ended with code 1 while it read train.csv row"),
        ("raises what can't be pickled", r"can't be prepared: Odd: odd one"),
    ],
)
def test_a_worker_that_comes_to_harm_ends_the_run_with_all_saved(shop: Path, what: str, said: str):
    output = shop / f"harmed {what}"
    words = [*RUN, *WORKERS, "--batch-size", "8", "--output", str(output)]
    finished = run(harmed(words, what, 0, output), cwd=shop)
    assert finished.code == 1, finished.output
    assert_all_saved(output, finished.lines[-1], said)
    assert finished.lines[-1].startswith("error: ")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_dead_worker_of_one_rank_ends_both_with_all_saved(
    shop: Path, undisturbed: Path, rank: int, sharding: str
):
    """And the run that goes on from there is the one that nothing happened to."""
    output = shop / f"dead-{rank}-{sharding}"
    words = [*RUN, *WORKERS, "--sharding", sharding, "--output", str(output)]
    finished = run([*TWO, *harmed(words, "is killed", rank, output)], cwd=shop)
    assert finished.code == 1, "torchrun's own code, whatever that of its processes"
    causes = [line for line in finished.lines if line.startswith("error: ")]
    assert len(causes) == 1, finished.output
    assert re.match(rf"error: rank {rank} \(host \S+\): data worker", causes[0]), finished.output
    assert_all_saved(output, causes[0], "(SIGKILL)")
    finished = run([*TWO, *words, "--resume-from-checkpoint", "true"], cwd=shop)
    assert finished.code == 0, finished.output
    assert_same_run(output, undisturbed)


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [([], signal.SIGINT, 130), ([], signal.SIGTERM, 143), (TWO, signal.SIGTERM, 1)],
)
def test_a_signal_ends_a_run_that_waits_for_a_batch(
    shop: Path, launcher: list[str], number: signal.Signals, code: int
):
    output = shop / f"waiting-{len(launcher)}-{number}"
    words = [*RUN, *WORKERS, "--output", str(output)]
    with launched([*launcher, *harmed(words, "hangs", len(launcher) and 1, output)], cwd=shop) as launch:
        wait_until_nothing_moves(launch, output)
        launch.signal(number)
        finished = launch.wait()
    assert finished.code == code, finished.output
    stops = [line for line in finished.lines if line.startswith("stopped: ")]
    assert len(stops) == 1, finished.output
    assert_all_saved(output, stops[0], "stopped: at step")


def assert_all_saved(output: Path, line: str, said: str) -> None:
    """A line says what happened and how to go on; the last finished step is saved."""
    newest = newest_complete(output)
    assert newest is not None and why_incomplete(newest) is None
    assert said in line and f"saved {newest}" in line and line.endswith(WAY_ON)
    assert int(newest.name.split("-")[1]) == steps(output)[-1]["step"] >= 4


def wait_until_nothing_moves(launch: Launched, output: Path) -> None:
    """Until a run has made steps and makes no more."""
    launch.until(lambda: (output / "metrics.jsonl").exists() and len(steps(output)) >= 4, "four steps")
    seen: list[tuple[float, int]] = []

    def still() -> bool:
        seen.append((time.monotonic(), len(steps(output))))
        since = next(moment for moment, count in seen if count == seen[-1][1])
        return seen[-1][0] - since > 3.0

    launch.until(still, "a wait")
