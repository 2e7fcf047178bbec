"""What torchrun finds where it looks for the causes of failures, and which of them it calls the first."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from mdl_toolkit.terminal.interrupts import Interrupted
from mdl_toolkit.terminal.torchrun import is_reported, let_cause_end_first, report_failure


@pytest.fixture
def error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    return tmp_path / "error.json"


def _seen(rank: int, file: Path, code: int) -> ProcessFailure:
    """What torchrun makes of the end of a process."""
    return ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file=str(file))


def test_torchrun_shows_cause_and_exit_code(error_file: Path) -> None:
    assert not is_reported()
    assert report_failure("rank 1 (host a): train.csv row 17: is empty", 2)
    assert is_reported() and [path.name for path in error_file.parent.iterdir()] == ["error.json"]
    text = str(ChildFailedError("mdl-toolkit", {1: _seen(1, error_file, 2)}))
    assert "rank      : 1" in text and "exitcode  : 2" in text
    assert "traceback : rank 1 (host a): train.csv row 17: is empty\n" in text
    assert json.loads(error_file.read_text())["message"]["errorCode"] == 2


@pytest.mark.parametrize("seen_first", ["cause", "follower"])
def test_the_first_failure_counts_whoever_is_seen_first(
    seen_first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch counts whole seconds: what happens within one is in the order in which it is looked at."""
    monkeypatch.setattr(time, "time", lambda: 1000.999)
    files = {"cause": tmp_path / "1.json", "follower": tmp_path / "0.json"}
    for what, file in files.items():
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        report_failure("it is empty", 2, follows=what == "follower")
    monkeypatch.undo()
    order = sorted(files, key=lambda what: what != seen_first)
    failures = {rank: _seen(rank, files[what], 2) for what in order for rank in [int(files[what].stem)]}
    assert ChildFailedError("mdl-toolkit", failures).get_first_failure()[0] == 1


def test_a_follower_keeps_what_it_has_said(error_file: Path) -> None:
    report_failure("its own", when=1000.5)
    report_failure("another's", follows=True)
    message = json.loads(error_file.read_text())["message"]
    assert message["message"] == "its own" and message["extraInfo"]["timestamp"] == "1000"
    report_failure("what ends it")
    assert json.loads(error_file.read_text())["message"]["message"] == "what ends it"


def test_a_file_that_cant_be_written_is_left_out(error_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun reads half a file with a traceback of its own."""

    def full(path: Path, text: str, encoding: str) -> None:
        with open(path, "w") as stream:
            stream.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert not report_failure("the cause") and not is_reported()
    assert not list(error_file.parent.iterdir())


def test_without_reports_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--log-dir /dev/null`` asks for none."""
    for value in ("", os.devnull):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", value)
        assert not report_failure("the cause") and not is_reported()
    assert not Path(os.devnull).is_file()
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    assert not report_failure("the cause") and not is_reported()


def test_torchruns_signal_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("nobody would end it"))
    assert not let_cause_end_first()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    def signalled(seconds: float) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(time, "sleep", signalled)
    assert let_cause_end_first()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert not let_cause_end_first()
