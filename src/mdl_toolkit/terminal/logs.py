"""The package's loggers: Python's own, named after their modules; in a launch the main process alone logs.

The command line prints their records (:mod:`mdl_toolkit.terminal.console`). In other programs they go where
that program has configured Python's ``logging`` to send them; unconfigured, warnings go to standard error and
the rest nowhere.
"""

from __future__ import annotations

import logging
import os
from typing import ClassVar

#: As ``extra=EVERYWHERE`` of a message: every process of a launch logs it, not only the main one.
EVERYWHERE = {"everywhere": True}


class PackageLogger(logging.Logger):
    """A logger of the package. On the command line it prints, whatever a library does to logging as a whole.

    A library that calls ``logging.config.dictConfig`` switches off all loggers that are there already, unless
    it asks for something else; ``logging.disable`` switches off levels for everyone. In a program of the
    user's that is the user's choice; a command would fall silent in the middle of its work.

    Attributes:
        on_console: Whether this process is a command, whose messages are printed.
    """

    on_console: ClassVar[bool] = False

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 -- logging's own name
        """Whether a message of a level goes anywhere."""
        return level >= logging.INFO if self.on_console else super().isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        """Give a record to the handlers, if the filters let it pass."""
        if not self.on_console:
            super().handle(record)
        elif self.filter(record):
            self.callHandlers(record)


def get_logger(name: str) -> logging.Logger:
    """The logger of a module of this package.

    Args:
        name: The module's ``__name__``.
    """
    usual = logging.getLoggerClass()
    logging.setLoggerClass(PackageLogger)
    try:
        logger = logging.getLogger(name)
    finally:
        logging.setLoggerClass(usual)
    logger.addFilter(_passes)  # adding it once more changes nothing
    return logger


def is_main_process() -> bool:
    """Whether this is the process of a launch that logs and prints (rank 0; also outside of any launcher)."""
    try:
        return int(os.environ.get("RANK") or 0) == 0
    except ValueError:
        return True  # a RANK that makes no sense is refused elsewhere, and a process has to report it


def _passes(record: logging.LogRecord) -> bool:
    return is_main_process() or getattr(record, "everywhere", False)
