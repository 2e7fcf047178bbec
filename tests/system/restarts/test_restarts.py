"""What torchrun starts again goes on with the run that this launch has begun, and touches no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mdl_toolkit.training.checkpoints.state import RunState, checkpoints
from support.processes.launch import Launched, launched, run, torchrun
from support.processes.netns import Host
from support.training.checkpoints import tree
from support.training.shop import LONG, TRAIN, steps

pytestmark = pytest.mark.system

USED = "has a run in it already"


@pytest.fixture
def finished(shop: Path, undisturbed: Path) -> Path:
    """A finished run, which each test gets as it was: checkpoints 22, 23 and 24, and ``final/``."""
    shutil.rmtree(shop / "finished", ignore_errors=True)
    shutil.copytree(undisturbed, shop / "finished")
    return shop / "finished"


def _until_step(launch: Launched, output: Path, step: int, after: str) -> None:
    def made() -> bool:
        return after in launch.output and f'"step": {step},' in (output / "metrics.jsonl").read_text()

    launch.until(made, f"step {step}")


def test_a_finished_run_is_refused_as_often_as_it_is_started(shop: Path, finished: Path):
    before = tree(finished)
    words = [*LONG, "--max-steps", "90", "--lr", "0.01", "--output", "finished/"]
    ended = run([*torchrun("--max-restarts", "2"), *words], cwd=shop)
    assert ended.code == 1, "torchrun's own code, whatever that of its processes"
    told = [line for line in ended.lines if line.startswith("error: ")]
    assert len(told) == 3 and all(USED in line for line in told), ended.output
    assert not any("mdl_toolkit/cli.py" in line for line in ended.lines), ended.output
    assert ended.output.count("exitcode  : 2") >= 1
    assert tree(finished) == before


def test_what_is_killed_before_it_has_begun_overwrites_again(shop: Path, finished: Path):
    words = [*torchrun("--max-restarts", "2"), *LONG, "--overwrite", "--seed", "7", "--output", "finished/"]
    with launched(words, cwd=shop) as launch:
        launch.until(lambda: launch.rank(1), "the processes have been started")
        launch.kill(1)
        ended = launch.wait()
    assert ended.code == 0, ended.output
    assert "resuming from" not in ended.output
    assert [line["step"] for line in steps(finished)] == list(range(1, 25))
    states = [RunState.read(path) for path in checkpoints(finished)]
    assert [(state.step, state.options["seed"]) for state in states] == [(22, 7), (23, 7), (24, 7)]
    assert len({state.run for state in states}) == 1 and states[0].run is not None


def test_a_named_checkpoint_is_begun_from_again(shop: Path, finished: Path):
    """checkpoint-24 of the old run is there, and not gone on with."""
    named = ["--resume-from-checkpoint", "finished/checkpoint-22", "--lr", "0.001"]
    words = [*TRAIN, "--num-epochs", "16", "--save-steps", "200", *named, "--output", "finished/"]
    with launched([*torchrun("--max-restarts", "1"), *words], cwd=shop) as launch:
        _until_step(launch, finished, 25, after="resuming from")
        launch.kill(0)  # the one that saves where another is lost
        ended = launch.wait()
    assert ended.code == 0, ended.output
    assert ended.output.count("resuming from finished/checkpoint-22: step 22 of 48") == 2, ended.output
    assert RunState.read(finished / "checkpoint-48").options["lr"] == 0.001


def test_a_host_joins_later_and_no_attempt_is_lost(shop: Path, hosts: tuple[Host, Host]):
    """A change of hosts is a restart that torchrun doesn't count; here it may not even restart once.

    Without the variable torchrun (2.13) gives the host that joins no address of its store.
    """
    own_stores = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "host-a", "--rdzv-id", "grows"]
    meeting += ["--rdzv-conf", "last_call_timeout=1"]
    elastic = ["torchrun", "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "0", *meeting]
    training = [*TRAIN, "--num-epochs", "60", "--save-steps", "20", "--output", "joined-later/"]
    words = [*elastic, "--no-python", *training]
    with launched(words, cwd=shop, env=own_stores, prefix=hosts[0].prefix) as first:
        first.until((shop / "joined-later" / "checkpoint-20").is_dir, "checkpoint-20")
        begun = json.loads((shop / "joined-later" / ".mdl_run.json").read_text())
        with launched(words, cwd=shop, env=own_stores, prefix=hosts[1].prefix) as second:
            ended = first.wait(), second.wait()
    assert [each.code for each in ended] == [0, 0], ended
    assert "resuming from joined-later/checkpoint-" in ended[0].output + ended[1].output
    assert "error: " not in ended[0].output + ended[1].output
    record = json.loads((shop / "joined-later" / ".mdl_run.json").read_text())
    assert record["run"] == begun["run"] and set(record["launch"]) > set(begun["launch"])
    assert {RunState.run_of(path) for path in checkpoints(shop / "joined-later")} == {begun["run"]}
    numbers = [line["step"] for line in steps(shop / "joined-later")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_checkpoints_on_the_other_host_are_an_error(
    shop: Path, tmp_path: Path, undisturbed: Path, hosts: tuple[Host, Host]
):
    """Rank 0 is started where there are none; nothing of them is lost."""
    for path in shop.iterdir():
        if path.name in {"model", "train.yaml", "train-converted", "test-converted"}:
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(undisturbed, tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    ends = []
    for number, folder in ((0, shop), (1, tmp_path)):
        rank = ["--node-rank", str(number), "--master-addr", "host-a", "--master-port", "29431"]
        launch = ["torchrun", "--nnodes", "2", "--nproc-per-node", "1", *rank, "--no-python"]
        words = [*launch, *LONG, "--resume-from-checkpoint", "latest", "--output", "elsewhere/"]
        ends.append((folder, words, hosts[number].prefix))
    with (
        launched(ends[0][1], cwd=ends[0][0], prefix=ends[0][2]) as first,
        launched(ends[1][1], cwd=ends[1][0], prefix=ends[1][2]) as second,
    ):
        ended = first.wait(), second.wait()
    assert [each.code for each in ended] == [1, 1], ended
    said = [line for line in ended[0].lines if not line.startswith("[W")]  # what torch warns of
    assert said[0].endswith("elsewhere: starting anew, unless another host has one"), ended[0].output
    for each in ended:
        told = [line for line in each.lines if line.startswith("error: ")]
        assert len(told) == 1, each.output
        assert "rank 1 (host host-b) sees elsewhere/checkpoint-24" in told[0], each.output
        assert "copy the folder from host host-b to host host-a" in told[0]
    assert tree(tmp_path / "elsewhere") == before
    assert not checkpoints(shop / "elsewhere") and not (shop / "elsewhere" / "final").exists()
