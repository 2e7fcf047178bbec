"""Errors that end a command with a message for a person and an exit code.

A :class:`UserError` was caused by the user, who can correct it: a wrong option, a damaged file. All others
were caused by the machine or by this package, but for :class:`Stopped`: somebody asked for that.
:class:`ExitCode` has the exit codes of all commands.
"""

from __future__ import annotations

import enum
import errno
import signal
from collections.abc import Sequence

#: What the last line of a command begins with that a signal has stopped, and where something is lost by that.
STOPPED, STOPPED_UNSAVED = "stopped", "stopped, not saved"


class ExitCode(enum.IntEnum):
    """The exit codes of all commands; a stop that lost nothing has 128 plus the signal's number.

    Attributes:
        meaning: What it means, in a few words.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:  # noqa: D102 -- how an enumeration takes two values
        member = int.__new__(cls, value)
        member._value_, member.meaning = value, meaning
        return member

    DONE = 0, "done"
    FAILED = 1, "failed"
    WRONG_INPUT = 2, "wrong options or input"
    PEER_LOST = 3, "another process of the run was lost"
    NOT_SAVED = 4, "training stopped by a signal, with something not saved"


def code_of_stop(signal_number: int, *, unsaved: bool = False) -> int:
    """The exit code of a command that a signal has stopped.

    Args:
        signal_number: The signal.
        unsaved: Whether work is lost that could have been saved. A Ctrl-C makes no difference of it: whoever
            presses it reads what is printed, and shells take 130 for nothing else.
    """
    if unsaved and signal_number != signal.SIGINT:
        return ExitCode.NOT_SAVED
    return 128 + signal_number


def describe_exit_codes() -> str:
    """All exit codes in a sentence, for ``--help``."""
    codes = ", ".join(f"{code.value} {code.meaning}" for code in ExitCode)
    names = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    saved = ", ".join(f"{code_of_stop(number)} {number.name}" for number in names)
    return (
        f"exit codes: {codes}, 128 + n stopped by signal n with all saved ({saved}; 130 is Ctrl-C, whatever "
        "is saved)"
    )


class MdlError(Exception):
    """Base class of every error that this package raises on purpose.

    Its text is a complete message: what was found, where, and what to do about it.

    Attributes:
        exit_code: The exit code of a command that it ends.
        state: What the command's last line begins with; scripts search for these words.
    """

    exit_code: int = ExitCode.FAILED
    state = "error"


class UserError(MdlError, ValueError):
    """Wrong use or wrong input, which the user can correct. Exit code 2."""

    exit_code = ExitCode.WRONG_INPUT


class SettingsError(UserError):
    """One or more wrong settings, reported together.

    Args:
        problems: One line for each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class HostsDisagreeError(SettingsError):
    """Hosts of a run differ in what decides its result. Every process finds that, and the text names them."""


class DataError(UserError):
    """A row, a recording or a dataset folder that can't be used."""


class ModelError(UserError):
    """A model, adapter or checkpoint folder that can't be used."""


class StorageError(MdlError):
    """A file that can't be written, for example because the disk is full. Older files are intact."""


class NonFiniteError(MdlError):
    """A loss or gradient that is NaN or infinite. The weights were not updated with it."""


class OutOfMemoryError(MdlError):
    """A batch of a single clip that does not fit into memory."""


class ReplicasDifferError(MdlError):
    """Processes hold different copies of what is trained. Every process finds that, and nothing is saved."""


class PeerLostError(MdlError):
    """Another process of the run is gone, frozen or can't be reached. Exit code 3."""

    exit_code = ExitCode.PEER_LOST


class Stopped(MdlError):  # noqa: N818 -- no failure: somebody asked for it
    """A signal asked the command to stop, and all of its processes have agreed to.

    Args:
        signal_number: The signal. The exit code is 128 plus this number, as in shells: 130 for SIGINT, 143
            for SIGTERM, 138 for SIGUSR1; see :func:`code_of_stop`.
        message: What was saved, and how to continue.
        unsaved: Whether something is lost that could have been saved.

    Attributes:
        number: The signal.
    """

    def __init__(self, signal_number: int, message: str, *, unsaved: bool = False) -> None:
        super().__init__(message)
        self.number = signal_number
        self.exit_code = code_of_stop(signal_number, unsaved=unsaved)
        self.state = STOPPED_UNSAVED if unsaved else STOPPED


class NotSavedError(MdlError):
    """A signal asked the command to stop, and one of its processes could not save.

    Args:
        signal_number: The signal.
        message: Why it could not be saved, and how to continue.
    """

    state = STOPPED_UNSAVED

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = code_of_stop(signal_number, unsaved=True)


def shortage(error: BaseException) -> str | None:
    """What the system has too little of, and what to do; ``None`` if the error is about something else.

    Args:
        error: An error that Python or a library has raised.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return (
            "no further thread can be started: memory or the number of processes allowed (ulimit -u, or the "
            "container's pids limit) is used up; fewer --num-workers and --data-workers need fewer"
        )
    if number == errno.EAGAIN and isinstance(error, BlockingIOError):
        return (
            "no further process can be started: the number of processes allowed (ulimit -u, or the "
            "container's pids limit) is used up; fewer --num-workers and --data-workers need fewer"
        )
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    if "cuda out of memory" in text:
        return f"the memory of the GPU is used up ({_line(error)}); a smaller --batch-size needs less"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "defaultcpuallocator: " in text:
        return f"the memory of this machine, or the limit of its container, is used up ({_line(error)})"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many files are open at the same time: raise the limit (ulimit -n)"
    return None


def _line(error: BaseException) -> str:
    """The beginning of an error's own text, in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def first_error(error: BaseException) -> BaseException:
    """The error during whose handling this one came up, where this one only says that the system is short.

    Memory runs out, and what is done about it needs memory or a thread as well: the first error is the cause.
    """
    while shortage(error) is not None and error.__cause__ is None and error.__context__ is not None:
        error = error.__context__
    return error


def printable(value: object) -> str:
    """A value as text for one line of a message: quoted if it has line breaks or control characters."""
    text = str(value)
    return text if text.isprintable() else repr(text)
