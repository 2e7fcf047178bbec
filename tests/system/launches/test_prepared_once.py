"""A table given to ``train`` is converted once for all processes of a filesystem, whatever happens."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path

import pytest

from support.data.clipserver import ClipServer, serving
from support.processes.launch import launched, run, run_together, torchrun, torchrun_on_both
from support.processes.netns import Host
from support.training.shop import TRAIN_ROWS, assert_same_run, make_shop

pytestmark = pytest.mark.system

TRAIN = shlex.split(
    "mdl-toolkit train --config train.yaml --lora-rank 16 --eval-steps 50 --eval-dataset test.csv"
)
CLIPS = {f"/train-{row}.wav": 1 for row in range(TRAIN_ROWS)}


def _web_table(shop: Path, server: ClipServer, name: str) -> None:
    text = (shop / "train.csv").read_text()
    (shop / f"{name}.csv").write_text(text.replace("clips/", f"{server.url}/"))


def test_one_process_converts_for_all(shop: Path):
    """Every recording is fetched once, and the run equals that on a converted dataset."""
    with serving(shop / "clips") as server:
        _web_table(shop, server, "web")
        words = [*TRAIN, "--train-dataset", "web.csv", "--allow-private-urls", "--output", "web/"]
        finished = run([*torchrun(), *words], cwd=shop)
        assert finished.code == 0, finished.output
        assert server.fetched == CLIPS
        assert_same_run(shop / "web", shop / "alone")


def test_a_converter_killed_in_the_middle_leaves_nothing_and_no_one_waiting(shop: Path):
    """The process at work is killed with -9 while the other one waits; torchrun's restart converts anew."""
    with serving(shop / "clips") as server:
        _web_table(shop, server, "slow")
        server.held = "/train-9.wav"
        words = [*TRAIN, "--train-dataset", "slow.csv", "--allow-private-urls", "--output", "slow/"]
        with launched([*torchrun("--max-restarts", "1"), *words], cwd=shop) as launch:
            launch.until(lambda: server.fetched[server.held], "the conversion to be in its middle")
            os.kill(_at_work(shop / "slow" / "cache"), signal.SIGKILL)
            server.release()
            finished = launch.wait()
        assert finished.code == 0, finished.output
        assert_same_run(shop / "slow", shop / "alone")
        assert max(server.fetched.values()) == 2, "done a second time, not a third"
        assert not list((shop / "slow").rglob(".partial-*"))


def _at_work(cache: Path) -> int:
    """The process that holds the lock of a conversion, by what it wrote there for those who wait."""
    (lock,) = cache.glob(".lock-*")
    return int(json.loads(lock.read_text())["pid"])


def test_hosts_without_a_shared_filesystem_convert_once_each(
    tmp_path: Path, shop: Path, hosts: tuple[Host, Host]
):
    folders = [make_shop(tmp_path / host.name) for host in hosts]
    words = [*torchrun_on_both("own"), *TRAIN, "--train-dataset", "train.csv", "--output", "output/"]
    launches = [
        (host.prefix, ["sh", "-ec", 'cd "$1"; shift; exec "$@"', "sh", str(folder), *words])
        for host, folder in zip(hosts, folders, strict=True)
    ]
    for finished in run_together(launches, cwd=tmp_path):
        assert finished.code == 0, finished.output
    for folder in folders:
        converted = [path.name.partition("-")[0] for path in (folder / "output" / "cache").glob("t*-*")]
        assert sorted(converted) == ["test", "train"]
    written = [folder / "output" for folder in folders if (folder / "output" / "final").exists()]
    assert len(written) == 1, "the machine of rank 0 has the model"
    assert_same_run(written[0], shop / "alone")
