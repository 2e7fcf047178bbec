"""The command line with one of its functions altered: slower, noisier, failing."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

_PROGRAM = """
import importlib, logging, os, sys, time, warnings
from mdl_toolkit.cli import main
place, name = sys.argv[1].rsplit(".", 1)
module, owner = place.rsplit(".", 1)
owner = getattr(importlib.import_module(module), owner)
original, calls = getattr(owner, name), []
def altered(*words, **named):
    calls.append(1)
{code}
    return original(*words, **named)
setattr(owner, name, altered)
main(sys.argv[2:])
"""


def altered(function: str, code: str, words: Sequence[str]) -> list[str]:
    """Words that start ``mdl-toolkit`` with code before each call of a function.

    Args:
        function: ``module.Class.method``.
        code: Python; ``len(calls)`` is the number of the call, from 1.
        words: What comes after ``mdl-toolkit``.
    """
    return [sys.executable, "-c", _PROGRAM.format(code=textwrap.indent(code, "    ")), function, *words]
