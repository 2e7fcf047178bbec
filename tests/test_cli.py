"""Commands and their exit codes."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

import pytest

from mdl_toolkit import cli
from mdl_toolkit.errors import (
    DataError,
    ExitCode,
    MdlError,
    NotSavedError,
    PeerLostError,
    Stopped,
    UserError,
    code_of_stop,
    shortage,
)
from mdl_toolkit.terminal.interrupts import FORWARDED, STOP_SIGNALS, Interrupted


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


def test_every_exit_code_is_in_the_help_and_the_guides(capsys: pytest.CaptureFixture[str]):
    """One table; whoever adds a code is told where it has to stand."""
    docs = Path(__file__).parents[1] / "docs"
    saved = {code_of_stop(number) for number in STOP_SIGNALS}
    for command in cli.COMMANDS:
        assert cli.run([command, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.partition("exit codes: ")[2].split())
        assert all(f"{code.value} {code.meaning}" in shown for code in ExitCode), shown
        assert all(str(code) in shown for code in saved)
    for language in ("en", "zh"):
        guide = (docs / language / "guide.md").read_text(encoding="utf-8")
        launches = (docs / language / "distributed.md").read_text(encoding="utf-8")
        for code in ExitCode:
            assert re.search(rf"(^|· ){code.value} ", guide, re.MULTILINE), (language, code)
            assert re.search(rf"^\| {code.value} \|", launches, re.MULTILINE), (language, code)
        assert all(str(code) in guide and str(code) in launches for code in saved)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_that_loses_something_is_told_apart(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path
):
    """By its exit code and by the first words of its line; a Ctrl-C by these alone."""
    import mdl_toolkit.data.conversion.command as convert

    lost = 130 if number == signal.SIGINT else 4
    for error, code, words in (
        (Stopped(number, "saved"), 128 + number, "stopped: saved"),
        (Stopped(number, "stopped at step 3; saved"), 128 + number, "stopped: at step 3; saved"),
        (Stopped(number, "why", unsaved=True), lost, "stopped, not saved: why"),
        (NotSavedError(number, "full"), lost, "stopped, not saved: full"),
        (PeerLostError("rank 1 is gone"), 3, "error: rank 1 is gone"),
    ):
        monkeypatch.setattr(convert, "convert_dataset", lambda _, error=error: (_ for _ in ()).throw(error))
        assert cli.run(["convert-dataset", str(clips), "--output", "d"]) == code
        assert capsys.readouterr().err == f"{words}\n"


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("can't start new thread"), "error: no further thread can be started: "),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "error: no further process can "),
        (MemoryError(), "error: the memory of this machine, or the limit of its container, is used up"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "error: the memory of this",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            "error: the memory of the GPU is used up",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "error: the memory of this machine"),
        (OSError(errno.EMFILE, "Too many open files", "a.wav"), "error: too many files are open"),
    ],
)
def test_what_the_system_is_short_of_is_told_in_a_line(monkeypatch, capsys, error: Exception, told: str):
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.run(["train"]) == 1
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(
    ("first", "told", "code"),
    [
        (MdlError("train.csv row 17: not enough memory"), "error: train.csv row 17: not enough memory\n", 1),
        (UserError("no such file"), "error: no such file\n", 2),
        (
            ValueError("an odd\nvalue"),
            "error: ValueError: an odd value; and then no further thread can be",
            1,
        ),
        (MemoryError(), "error: the memory of this machine", 1),
    ],
)
def test_a_thread_that_can_not_be_started_while_failing_hides_no_cause(
    monkeypatch, capsys, first: Exception, told: str, code: int
):
    def fail(argv: list[str]) -> int:
        try:
            raise first
        finally:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.run(["train"]) == code
    assert capsys.readouterr().err.startswith(told)


def test_another_error_is_no_shortage():
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOENT, "no such file"), ValueError("x")):
        assert shortage(error) is None
