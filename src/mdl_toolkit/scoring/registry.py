"""Which class judges which task, and whether the libraries that it needs are there."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.task import Task
from mdl_toolkit.settings.score_names import MAIN_SCORE, missing_libraries

#: The class of each task, as ``module:name`` below ``mdl_toolkit.scoring.tasks``.
_CLASSES = {
    "asr": "asr:AsrTask",
    "caption": "caption:CaptionTask",
    "choice": "choice:ChoiceTask",
    "classification": "classification:ClassificationTask",
    "exact": "exact:ExactTask",
    "qa": "qa:QaTask",
    "tagging": "tagging:TaggingTask",
}


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: There is none, or its libraries are missing.
    """
    if name not in _CLASSES:
        raise UserError(f"no task {name!r}; there are {', '.join(MAIN_SCORE)}")
    require_libraries(name)
    module, _, made = _CLASSES[name].partition(":")
    return cast(Task, getattr(import_module(f"mdl_toolkit.scoring.tasks.{module}"), made)())


def require_libraries(task: str) -> None:
    """Make sure that the libraries of a task are installed; none of them is imported for that.

    Raises:
        UserError: Some are missing; the message says how to install them.
    """
    if problems := missing_libraries(task):
        raise UserError("\n".join(problems))
