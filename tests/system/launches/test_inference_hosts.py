"""Inference on two hosts that share no folder: one output, on the first; a lost process costs little."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from support.data.clips import tone, write_csv, write_wav
from support.models.tiny import make_model_folder
from support.processes.launch import launched, run, torchrun_on_both
from support.processes.netns import Host, two_hosts

pytestmark = pytest.mark.system

_ROWS = 60


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory):
    """Two hosts, each with its working directory: its own copy of the input and no folder of the other's."""
    top = tmp_path_factory.mktemp("hosts")
    make_model_folder(top / "model")
    for clip in range(8):
        write_wav(top / f"clips/{clip}.wav", tone(0.2 + 0.1 * clip, hertz=150 + 60 * clip))
    with two_hosts(top) as pair:
        for host in pair:
            folder = top / host.name
            folder.mkdir()
            write_csv(folder / "in.csv", ["audio"], [(f"../clips/{n % 8}.wav",) for n in range(_ROWS)])
        yield top, pair


def _words(*options: str) -> list[str]:
    fixed = "--model-name ../model --batch-size 2 --max-new-tokens 12 --num-workers 1 --user-prompt which?"
    return ["mdl-toolkit", "inference", "in.csv", "--output", "out.csv", *fixed.split(), *options]


def test_one_output_also_where_a_process_was_killed(hosts: tuple[Path, tuple[Host, Host]]):
    top, (first, second) = hosts
    assert run(_words(), cwd=top / first.name).code == 0
    whole = (top / first.name / "out.csv").read_bytes()
    (top / first.name / "out.csv").unlink()
    words = [*torchrun_on_both("killed", "--max-restarts", "2"), *_words()]
    journal = top / first.name / "out.csv.partial/rank-1.jsonl"
    with (
        launched(words, cwd=top / first.name, prefix=first.prefix) as one,
        launched(words, cwd=top / second.name, prefix=second.prefix) as other,
    ):
        one.until(lambda: journal.exists() and b'"done"' in journal.read_bytes(), "a window from host-b")
        other.kill(1)
        finished, elsewhere = one.wait(), other.wait()
    assert finished.code == elsewhere.code == 0, finished.output + elsewhere.output
    assert (top / first.name / "out.csv").read_bytes() == whole
    assert "resuming the unfinished out.csv.partial" in finished.output
    assert "rank 1 (host host-b): out.csv.partial isn't seen there" in finished.output
    told = [line for line in elsewhere.lines if line.startswith(("joined", "done"))]
    assert told[-2].startswith("joined as rank 1 (host host-b), one of 2 processes"), elsewhere.output
    assert told[-1].endswith("out.csv is on host host-a")
    for host in (first, second):
        left = {path.name for path in (top / host.name).glob("*out.csv*")}
        assert left == ({"out.csv"} if host is first else set())


def test_hosts_that_disagree_end_at_once_and_say_in_what(hosts: tuple[Path, tuple[Host, Host]]):
    top, pair = hosts
    launch = torchrun_on_both("differ")
    with (
        launched([*launch, *_words()], cwd=top / pair[0].name, prefix=pair[0].prefix) as one,
        launched([*launch, *_words("--seed", "7")], cwd=top / pair[1].name, prefix=pair[1].prefix) as other,
    ):
        both = one.wait(), other.wait()
    for finished in both:
        told = [line for line in finished.lines if line.startswith("error: ")]
        assert len(told) == 1, finished.output
        assert (
            "rank 1 (host host-b) was started with --seed 7, rank 0 (host host-a) with --seed 42;" in told[0]
        )
        assert "exitcode  : 2" in finished.output


def test_choices_and_scores_are_one_answer_of_all_hosts(hosts: tuple[Path, tuple[Host, Host]]):
    """Each host reads its own file of choices, and what they say is compared before the work begins."""
    top, (first, second) = hosts
    for host in (first, second):
        (top / host.name / "labels.txt").write_text("a cat\na catfish\na dog\n")
    options = ["--choices", "labels.txt", "--scores", "--overwrite"]
    assert run(_words(*options), cwd=top / first.name).code == 0
    alone = _rows(top / first.name / "out.csv")
    words = [*torchrun_on_both("choices"), *_words(*options)]
    with (
        launched(words, cwd=top / first.name, prefix=first.prefix) as one,
        launched(words, cwd=top / second.name, prefix=second.prefix) as other,
    ):
        finished, elsewhere = one.wait(), other.wait()
    assert finished.code == elsewhere.code == 0, finished.output + elsewhere.output
    assert "rank 1 (host host-b): out.csv.partial isn't seen there" in finished.output
    together = _rows(top / first.name / "out.csv")
    assert len(together) == _ROWS and {row["prediction"] for row in together} <= {
        "a cat",
        "a catfish",
        "a dog",
    }
    for row, same in zip(together, alone, strict=True):
        assert (row["audio"], row["prediction"], row["runner_up"]) == (
            same["audio"], same["prediction"], same["runner_up"],
        )  # fmt: skip
        for name in ("probability", "runner_up_probability", "mean_logprob", "min_logprob"):
            assert float(row[name]) == pytest.approx(float(same[name]), abs=1e-5), "which rows run together"


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
