"""The package's loggers: Python's own, named after their modules; of a launch the main process alone speaks.

The command line prints their records (:mod:`mdl_toolkit.terminal.console`). In other programs they go where
that program has told Python's ``logging`` to send them: without any word, warnings to standard error and the
rest nowhere.
"""

from __future__ import annotations

import logging
import os

#: As ``extra=EVERYWHERE`` of a message: every process of a launch says it, not only the main one.
EVERYWHERE = {"everywhere": True}


def get_logger(name: str) -> logging.Logger:
    """The logger of a module of this package.

    Args:
        name: The module's ``__name__``.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_is_to_be_said)  # adding it once more changes nothing
    return logger


def is_main_process() -> bool:
    """Whether this is the one process of a launch that speaks (rank 0; also outside of any launcher)."""
    try:
        return int(os.environ.get("RANK") or 0) == 0
    except ValueError:
        return True  # a RANK that makes no sense is refused elsewhere, and someone has to say so


def _is_to_be_said(record: logging.LogRecord) -> bool:
    return is_main_process() or getattr(record, "everywhere", False)
