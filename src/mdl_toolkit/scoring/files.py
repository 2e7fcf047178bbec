"""The files of an evaluation: ``scores.json``, ``rows.csv`` and, for speech, ``alignments.txt``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mdl_toolkit.data.input.csvfile import CsvWriter, text_cell
from mdl_toolkit.errors import StorageError
from mdl_toolkit.files import atomic_file
from mdl_toolkit.scoring.task import Judged

#: Rows that are shown in ``alignments.txt``.
_ALIGNED = 1000

SCORES, ROWS, ALIGNMENTS = "scores.json", "rows.csv", "alignments.txt"


def write_files(
    folder: Path,
    summary: Mapping[str, Any],
    judged: Judged,
    columns: Mapping[str, Sequence[Any]],
    numbers: Sequence[int] | None = None,
) -> None:
    """Write an evaluation's files, which take the place of older ones together.

    Args:
        folder: The folder; made if it is missing.
        summary: What ``scores.json`` is to say.
        judged: What the task made of the rows.
        columns: The columns of the predictions file in order, each with a value a row.
        numbers: The number of each row in the file; by default 1, 2 and so on.

    Raises:
        StorageError: They can't be written; older ones are intact.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            # Halves of surrogate pairs, which JSON can express, are written as \udXXX.
            opened = atomic_file(folder / ROWS, newline="", errors="backslashreplace")
            _write_rows(CsvWriter(stack.enter_context(opened)), judged, columns, numbers)
            if judged.alignments:
                text = stack.enter_context(atomic_file(folder / ALIGNMENTS, errors="backslashreplace"))
                text.writelines(_aligned(judged, numbers))
            scores = stack.enter_context(atomic_file(folder / SCORES, errors="backslashreplace"))
            json.dump(summary, scores, ensure_ascii=False, indent=2, allow_nan=False)
            scores.write("\n")
        if not judged.alignments:
            with suppress(FileNotFoundError):
                (folder / ALIGNMENTS).unlink()
    except OSError as error:
        raise StorageError(f"{folder}: can't be written: {error.strerror or error}") from error


def row_columns(
    judged: Judged, columns: Mapping[str, Sequence[Any]], numbers: Sequence[int] | None = None
) -> dict[str, Sequence[Any]]:
    """The columns of ``rows.csv``, each with a value a row.

    A column of the predictions file whose name is taken by what is added gives way: ``score`` of the file is
    then ``score_1``.
    """
    added: dict[str, Sequence[Any]] = {
        "row": numbers if numbers is not None else range(1, judged.statistics.rows + 1),
        "score": judged.score,
        **({"correct": judged.correct} if judged.correct is not None else {}),
        **judged.columns,
    }
    found: dict[str, Sequence[Any]] = {}
    for name, values in columns.items():
        free, number = name, 0
        while free in added or free in found:
            number += 1
            free = f"{name}_{number}"
        found[free] = values
    return {**found, **added}


def worst_first(judged: Judged, lower_is_better: bool) -> list[int]:
    """The places of all rows that have a score, the worst first; of equals, the earlier first."""
    scored = [place for place, value in enumerate(judged.score) if value is not None]
    sign = -1 if lower_is_better else 1
    return sorted(scored, key=lambda place: sign * (judged.score[place] or 0.0))


def _write_rows(
    writer: CsvWriter, judged: Judged, columns: Mapping[str, Sequence[Any]], numbers: Sequence[int] | None
) -> None:
    table = row_columns(judged, columns, numbers)
    writer.writerow([text_cell(name) for name in table])
    for values in zip(*table.values(), strict=True):
        writer.writerow([_cell(value) for value in values])


def _aligned(judged: Judged, numbers: Sequence[int] | None) -> Iterable[str]:
    assert judged.alignments is not None
    wrong = [place for place in worst_first(judged, lower_is_better=True) if judged.score[place]]
    some = f"; the worst {_ALIGNED:,} of them" if len(wrong) > _ALIGNED else ""
    yield f"{len(wrong):,} rows with errors, the worst first{some}\n\n"
    for place in wrong[:_ALIGNED]:
        number = numbers[place] if numbers is not None else place + 1
        yield f"row {number}: {100 * (judged.score[place] or 0):.1f} %\n{judged.alignments(place)}\n\n"


def _cell(value: Any) -> str:
    """The cell that is read as the value: numbers as plain decimals, nothing for what isn't there."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return text_cell(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, (list, tuple, dict)):
        return text_cell(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


def _decimal(value: float) -> str:
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text
