"""``metrics.jsonl``: one JSON object per optimizer step, per evaluation, and one at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import MdlError
from mdl_toolkit.files import atomic_file

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """The metrics file of a run, written by its main process alone.

    Every line is flushed when it is written, so that a killed run loses none but a last, cut one, which the
    next start removes.

    Args:
        path: The path of the file.
        keep_steps: The last step whose line is kept; a resumed run writes later ones again. 0 starts anew.

    Attributes:
        kept: The lines that were kept, parsed.
    """

    def __init__(self, path: Path, keep_steps: int = 0) -> None:
        self.path = path
        lines = _lines_up_to(path, keep_steps)
        self.kept: list[dict[str, Any]] = [json.loads(line) for line in lines]
        try:
            with atomic_file(path) as stream:
                stream.writelines(lines)
            self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 -- closed by close()
        except OSError as error:
            raise _cannot_write(path, error) from error

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a line. Numbers that JSON doesn't have (NaN, infinity) become null.

        Raises:
            MdlError: The disk is full or can't be written to.
        """
        try:
            self._stream.write(json.dumps(jsonable(values), ensure_ascii=False) + "\n")
            self._stream.flush()
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._stream.close()
        except OSError as error:
            raise _cannot_write(self.path, error) from error


def _cannot_write(path: Path, error: OSError) -> MdlError:
    return MdlError(
        f"{path} can't be written: {error.strerror or error}; checkpoints saved before are intact"
    )


def jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite, which JSON doesn't have, by ``None``."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8", errors="replace") as stream:
        return [line for line in stream if line.endswith("\n") and _is_object(line)]


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _lines_up_to(path: Path, step: int) -> list[str]:
    if step <= 0:
        return []
    # The summary at the end of a finished run has no step: a run that goes on writes a new one.
    return [line for line in _whole_lines(path) if json.loads(line).get("step", math.inf) <= step]
