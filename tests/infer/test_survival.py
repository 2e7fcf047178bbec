"""Real processes: killed with -9 and started again, and several of them at once."""

from __future__ import annotations

import csv
import io
import json
import signal
from pathlib import Path

import pytest

from support.data.clips import tone, write_csv, write_wav
from support.models.tiny import make_model_folder
from support.processes.launch import launched, run, torchrun

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inference")
    make_model_folder(folder / "model")
    for clip in range(12):
        write_wav(folder / f"clips/{clip}.wav", tone(0.2 + 0.1 * clip, hertz=150 + 60 * clip))
    rows = [(f"row {n}", f"clips/{n % 13}.wav") for n in range(260)]  # each thirteenth clip is missing
    write_csv(folder / "in.csv", ["name", "audio"], rows)
    return folder


def _words(output: str) -> list[str]:
    options = "--model-name model --batch-size 2 --max-new-tokens 12 --num-workers 1 --user-prompt which?"
    return ["mdl-toolkit", "inference", "in.csv", "--output", output, *options.split()]


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    finished = run(_words("whole.csv"), cwd=folder)
    assert finished.code == 0, finished.output
    return (folder / "whole.csv").read_bytes()


def _windows(output: Path) -> int:
    folder = output.with_name(output.name + ".partial")
    return sum(path.read_bytes().count(b'"done"') for path in folder.glob("rank-*.jsonl"))


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(folder: Path, whole: bytes, name: str):
    output, seen = folder / name, 0
    for _ in range(2):
        with launched(_words(name), cwd=folder) as launch:
            launch.until(lambda: _windows(output) >= seen + 2, "two more windows")  # noqa: B023 -- called before the next round
            launch.signal(signal.SIGKILL)
            assert launch.wait().code == -signal.SIGKILL
        assert not output.exists() and seen < _windows(output) < 17
        seen = _windows(output)
    finished = run(_words(name), cwd=folder)
    assert finished.code == 0, finished.output
    assert f"resuming the unfinished {name}.partial" in finished.output
    if name == "out.csv":
        assert output.read_bytes() == whole
    else:
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        assert [{key: value or "" for key, value in row.items()} for row in rows] == [
            dict(row) for row in csv.DictReader(io.StringIO(whole.decode()))
        ]
    assert {path.name for path in folder.glob(f"*{name}*")} == {name}


def test_several_processes_write_one_csv_even_where_one_was_killed_before(folder: Path, whole: bytes):
    output = folder / "lost.csv"
    with launched([*torchrun(), *_words("lost.csv")], cwd=folder) as launch:
        launch.until(lambda: _windows(output) >= 3, "three windows")
        launch.kill(1)
        assert launch.wait().code != 0
    assert not output.exists()
    finished = run([*torchrun(), *_words("lost.csv")], cwd=folder)
    assert finished.code == 0, finished.output
    assert output.read_bytes() == whole
    assert finished.output.count(" rows, ") == 1, "one process speaks"


def test_a_mistake_is_told_once_by_several_processes(folder: Path):
    words = ["modle" if word == "model" else word for word in _words("none.csv")]
    finished = run([*torchrun(), *words], cwd=folder)
    assert finished.code != 0
    told = [line for line in finished.lines if line.startswith("error:")]
    assert len(told) == 1 and "did you mean model" in told[0], finished.output
    assert "did you mean model" in "\n".join(finished.lines[-6:]), "torchrun's report ends with the cause"


def _as_rank(rank: int, words: list[str]) -> list[str]:
    return ["env", f"RANK={rank}", "WORLD_SIZE=2", f"LOCAL_RANK={rank}", *words]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_process_that_starts_late_finds_that_all_is_done(folder: Path, resumed: bool):
    """The first answers all rows before the other has come; both end, and nothing is left behind."""
    rows = [(f"row {n}", f"clips/{n}.wav") for n in range(2)]
    write_csv(folder / "few.csv", ["name", "audio"], rows)
    words = [("few.csv" if word == "in.csv" else word) for word in _words("late.csv")]
    output, partial = folder / "late.csv", folder / "late.csv.partial"
    output.unlink(missing_ok=True)
    if resumed:
        with launched(_as_rank(0, words), cwd=folder) as launch:
            launch.until(lambda: _windows(output) == 1 and output.exists(), "all answers")
            launch.signal(signal.SIGKILL)
            launch.wait()
        output.unlink()
        (partial / "rank-1.left").touch()  # it had been there in the launch that was killed
    with launched(_as_rank(0, words), cwd=folder) as first:
        first.until(output.exists, "the output")
        assert partial.is_dir()
        late = run(_as_rank(1, words), cwd=folder)
        assert late.code == 0, late.output
        assert first.wait().code == 0, first.output
    assert len(output.read_text().splitlines()) == 3 and not partial.exists()
