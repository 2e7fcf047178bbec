"""Training. It can be called: ``mdl_toolkit.train(settings)`` is :func:`mdl_toolkit.train.run.train`.

It shares its name with the function that users import, and whichever of the two is asked for first would hide
the other.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdl_toolkit.settings import TrainSettings


class _Training(ModuleType):
    def __call__(self, settings: TrainSettings) -> None:
        from mdl_toolkit.train.run import train

        train(settings)


sys.modules[__name__].__class__ = _Training
