"""Errors that end a command with a message for a person and an exit code.

A :class:`UserError` was caused by the user, who can correct it: a wrong option, a damaged file. It ends the
command with exit code 2. All others were caused by the machine or by this package and end it with 1, but for
a lost peer (3). After a signal the exit code is 128 plus the signal's number where everything was saved.
"""

from __future__ import annotations

from collections.abc import Sequence


class MdlError(Exception):
    """Base class of every error that this package raises on purpose.

    Its text is a complete message: what was found, where, and what to do about it.
    """

    exit_code = 1


class UserError(MdlError, ValueError):
    """Wrong use or wrong input, which the user can correct. Exit code 2."""

    exit_code = 2


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


class PeerLostError(MdlError):
    """Another process of the run is gone, frozen or can't be reached. Exit code 3."""

    exit_code = 3


class Stopped(MdlError):  # noqa: N818 -- no failure: somebody asked for it
    """A signal asked the run to stop, and everything was saved.

    Args:
        signal_number: The signal. The exit code is 128 plus this number, as in shells: 130 for SIGINT, 143
            for SIGTERM, 138 for SIGUSR1.
        message: What was saved, and how to continue.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def printable(value: object) -> str:
    """A value as text for one line of a message: quoted if it has line breaks or control characters."""
    text = str(value)
    return text if text.isprintable() else repr(text)
