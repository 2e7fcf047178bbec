"""``inspect``: looks at a table or a converted dataset before training, and says what is wrong with it."""

from __future__ import annotations

import json
import re
from typing import Any

from mdl_toolkit.data.input.records import read_layout
from mdl_toolkit.errors import DataError, MdlError
from mdl_toolkit.settings import InspectSettings
from mdl_toolkit.terminal.console import print_result
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

#: A list of numbers as an indented JSON has it, over several lines. Texts have no line break in JSON.
_NUMBERS = re.compile(r"\[\n\s*(-?\d[\d\s,.]*?)\n\s*\]")


def inspect(settings: InspectSettings) -> None:
    """Look at a set, print what was found, and write the page if one is wanted.

    Args:
        settings: The settings of the command.

    Raises:
        UserError: The input can't be read as a whole.
        MdlError: ``--strict``, and there is a problem.
    """
    paths = [path for path in (settings.input, settings.against) if path is not None]
    for path in paths:  # both, before a long look at the first
        if not path.is_dir():
            read_layout(path, settings.encoding)
    from mdl_toolkit.inspection.copies import find_copies
    from mdl_toolkit.inspection.output.page import write_page
    from mdl_toolkit.inspection.output.summary import summary
    from mdl_toolkit.inspection.output.text import as_text
    from mdl_toolkit.inspection.reading import read_set

    sets = [read_set(path, settings) for path in paths]
    if len({one.sample_rate for one in sets}) > 1:
        raise DataError(
            f"{paths[0]} and {paths[1]} are for models that hear at different rates; convert both for one"
        )
    found = summary(sets, find_copies(sets, settings.num_workers))
    if settings.output is not None:
        write_page(settings.output, found)
    print_result(_as_json(found) if settings.json else as_text(found))
    if settings.output is not None:
        logger.info(f"report: {settings.output}")
    if settings.strict and found["problems"]:
        problems = [finding for finding in found["findings"] if finding["level"] == "problem"]
        number = f"{len(problems)} problems, the first of them" if len(problems) > 1 else "a problem"
        raise MdlError(f"{number}: {problems[0]['topic']}: {problems[0]['text']}")


def _as_json(found: dict[str, Any]) -> str:
    """Indented JSON with each list of lines on a line of its own."""
    indented = json.dumps(found, ensure_ascii=False, indent=2)
    return _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", indented)
