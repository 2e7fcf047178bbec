"""Two hosts that are not started alike end at once, with what differs; two that only look different train."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from support.processes.launch import Finished, run_together, torchrun_on_both
from support.processes.netns import Host
from support.training.shop import TRAIN, steps, train_on

pytestmark = pytest.mark.system


def started(
    hosts: tuple[Host, Host], words: tuple[list[str], list[str]], job: str, cwd: Path
) -> list[Finished]:
    launches = [(host.prefix, [*torchrun_on_both(job), *own]) for host, own in zip(hosts, words, strict=True)]
    return run_together(launches, cwd=cwd)


def assert_refused(ended: list[Finished], *said: str) -> None:
    """Both hosts end within seconds, say the same once, and their processes end with 2."""
    for one in ended:
        errors = [line for line in one.lines if line.startswith("error: ")]
        assert one.code == 1 and len(errors) == 1, one.output
        assert all(words in errors[0] for words in said), errors
        assert "exitcode  : 2" in one.output and "killer" not in one.output
        assert "mdl_toolkit/" not in one.output  # no traceback of ours
        assert one.seconds < 120
    assert ended[0].output.count("error: host") == ended[1].output.count("error: host") == 1


def test_other_options_on_one_host(shop: Path, hosts: tuple[Host, Host]) -> None:
    """Numbers of steps, checkpoints and evaluations would have left the hosts in different collectives."""
    where = TRAIN.index("--eval-dataset")
    without = [*TRAIN[:where], *TRAIN[where + 2 :]]
    other = ["--lr", "0.01", "--max-steps", "2", "--save-steps", "1", "--seed", "7", "--batch-size", "2"]
    ended = started(
        hosts,
        ([*TRAIN, "--output", "disagree/"], [*without, *other, "--output", "elsewhere/"]),
        "disagree",
        shop,
    )
    named = "--lr 0.01, --max-steps 2, --batch-size 2, --seed 7, --save-steps 1 and no --eval-dataset"
    assert_refused(
        ended, named, "host-b (rank", "host-a (rank", "no --max-steps", "0.003", "no evaluation data"
    )
    assert not (shop / "disagree" / "final").exists() and not (shop / "elsewhere" / "final").exists()


def test_one_label_in_one_hosts_copy_of_the_table(
    shop: Path, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """Each host converts a table of its own, with the same command."""
    copies = [Path(shutil.copytree(shop, tmp_path / name, symlinks=True)) for name in "ab"]
    with open(copies[1] / "train.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    rows[5][1] += " thirteen"
    with open(copies[1] / "train.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    words = [*train_on("train.csv"), "--output", "run/"]
    ended = started(
        hosts,
        tuple(["env", f"--chdir={copy}", *words] for copy in copies),  # type: ignore[arg-type]
        "label",
        shop,
    )
    assert_refused(
        ended, "has other training data than", "is train.csv row 6 (clips/train-4.wav), in its answer"
    )


def test_hosts_that_only_look_different_train_together(
    shop: Path, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """A file of options here and flags there, copies of data and model, other workers, another order."""
    copy = Path(shutil.copytree(shop, tmp_path / "copy", symlinks=True))
    flags = [
        "--method", "lora", "--train-target", "decoder,encoder,projector", "--warmup-steps", "0",
        "--batch-size", "4", "--num-epochs", "2.0", "--lr", "3e-3", "--data-workers", "1",
    ]  # fmt: skip
    there = [
        "mdl-toolkit", "train", "--model-name", str(copy / "model"), "--lora-rank", "16",
        "--eval-steps", "50.0",
        "--train-dataset", str(copy / "train-converted"), "--eval-dataset", str(copy / "test-converted"),
    ]  # fmt: skip
    ended = started(
        hosts,
        ([*TRAIN, "--output", "alike/"], [*there, *flags, "--output", str(copy / "alike")]),
        "alike",
        shop,
    )
    assert [one.code for one in ended] == [0, 0], [one.output for one in ended]
    output = shop / "alike" if (shop / "alike" / "final").is_dir() else copy / "alike"
    assert (output / "final").is_dir() and steps(output)
