"""What can go wrong, told apart by whose turn it is to act.

Anything a person caused (a wrong option, a broken file) is a :class:`UserError` and ends the program with
exit code 2 and one clear line. Anything else is our fault or the machine's and ends it with 1.
"""

from __future__ import annotations

from collections.abc import Sequence


class MdlError(Exception):
    """Base of every error that this package raises on purpose.

    Its text is a complete message for a person: what was found, where, and what to do about it.
    """

    exit_code = 1


class UserError(MdlError, ValueError):
    """Wrong use or wrong input: the user can mend it. Exit code 2."""

    exit_code = 2


class SettingsError(UserError):
    """One or more wrong settings, all of them reported together."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class DataError(UserError):
    """A row, a recording or a dataset folder that can't be used."""


class ModelError(UserError):
    """A model, adapter or checkpoint folder that can't be used."""


class StorageError(MdlError):
    """Something that can't be written, for a full disk for example; what was there before is intact."""


class NonFiniteError(MdlError):
    """A loss or gradient that is not a finite number; the weights were not updated with it."""


class OutOfMemoryError(MdlError):
    """A batch of a single clip does not fit into memory."""


class Stopped(MdlError):  # noqa: N818 -- somebody asked for it
    """The run was asked to stop by a signal and has saved what it had.

    Args:
        signal_number: The signal received; the exit code is 128 plus this number, as shells have it
            (130 for SIGINT, 143 for SIGTERM, 138 for SIGUSR1).
        message: What was saved and how to go on.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
