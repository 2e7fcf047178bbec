"""Commands and their exit codes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mdl_toolkit import cli
from mdl_toolkit.errors import DataError, Stopped
from mdl_toolkit.terminal.interrupts import FORWARDED, Interrupted


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("audio,prediction\na.wav,yes\n")
    return path


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("row 3 is bad"), 2),
        (Stopped(signal.SIGTERM, "saved"), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, clips: Path, error: BaseException, code: int):
    import mdl_toolkit.data.conversion.command as convert

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(convert, "convert_dataset", fail)
    assert cli.run(["convert-dataset", str(clips), "--output", "d"]) == code


@pytest.mark.parametrize("step", [False, True])
def test_a_step_of_another_command_leaves_it_to_that_to_say_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, step: bool
):
    import mdl_toolkit.data.conversion.command as convert

    def interrupt(_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(convert, "convert_dataset", interrupt)
    if step:
        monkeypatch.setenv(FORWARDED, "1")
    assert cli.run(["convert-dataset", str(clips), "--output", "d"]) == 143
    said = "" if step else ": no half dataset is left; the same command starts again"
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped by SIGTERM{said}"


def test_no_command_and_a_misspelt_one(capsys: pytest.CaptureFixture[str]):
    assert cli.run([]) == 2
    assert "usage: mdl-toolkit COMMAND" in capsys.readouterr().out
    assert cli.run(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_launchers_variable_that_makes_no_sense_is_told_first(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RANK", "abc")
    assert cli.run([command]) == 2
    assert capsys.readouterr().err == (
        "error: environment variable RANK=abc: a whole number expected (launchers set these; left over in "
        "this shell? unset RANK)\n"
    )
    assert cli.run([command, "--help"]) == 0
