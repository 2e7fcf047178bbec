"""The package's loggers: Python's own, named after their modules; in a launch the main process alone logs.

The command line prints their records (:mod:`mdl_toolkit.terminal.console`). In other programs they go where
that program has configured Python's ``logging`` to send them; unconfigured, warnings go to standard error and
the rest nowhere.
"""

from __future__ import annotations

import logging
import os

#: As ``extra=EVERYWHERE`` of a message: every process of a launch logs it, not only the main one.
EVERYWHERE = {"everywhere": True}


def get_logger(name: str) -> logging.Logger:
    """The logger of a module of this package.

    Args:
        name: The module's ``__name__``.
    """
    logger = logging.getLogger(name)
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
