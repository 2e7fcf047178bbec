"""Scores as a table for a person: aligned, in per cent, each with its interval."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mdl_toolkit.scoring import files
from mdl_toolkit.scoring.api import Scored
from mdl_toolkit.scoring.input.table import AnswerTable
from mdl_toolkit.settings.score_names import is_lower_better

#: Scores that are no shares, and are printed as they are.
_NO_SHARES = frozenset({"cider"})
#: Names that aren't written as words are.
_SPELLED = {
    "wer": "WER", "cer": "CER", "map": "mAP", "f1": "F1", "bleu": "BLEU", "rouge_l": "ROUGE-L",
    "cider": "CIDEr", "fense": "FENSE", "ece": "ECE", "macro_f1": "macro F1", "weighted_f1": "weighted F1",
    "micro_f1": "micro F1", "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4",
}  # fmt: skip
#: The widest that a slice's name is printed.
_NAME_WIDTH = 32
#: Rows whose alignment is printed, the worst first.
_WORST = 3
#: Slices of a column that are printed; all are in ``scores.json``.
_SLICES = 20


def scores(summary: Mapping[str, Any], resamples: int) -> str:
    """The scores, the slices and the comparison of an evaluation, as lines."""
    interval = "95 % interval" if resamples else ""
    table = [["", "value", interval]]
    table += [
        [spelled(name), value(name, found["value"]), _interval(name, found)]
        for name, found in summary["scores"].items()
    ]
    rows = "1 row" if summary["rows"] == 1 else f"{summary['rows']} rows"
    head = f"{summary['source']}: {rows}, task {summary['task']}{_counts(summary)}"
    parts = [*_unanswered(summary), head, aligned(table)]
    if "errors" in summary:
        parts.append(_errors(summary["errors"]))
    parts += [_slices(summary, column, interval) for column in summary["slices"]]
    if "against" in summary:
        parts.append(_against(summary["against"]))
    return "\n\n".join(parts)


def _unanswered(summary: Mapping[str, Any]) -> list[str]:
    """What is to be known before all scores: how much of the truth they say nothing of."""
    missing = len(summary.get("missing", ()))
    if not missing:
        return []
    rows = summary["rows"] - len(summary["extra"]) + missing
    have, are = ("has", "is") if missing == 1 else ("have", "are")
    return [
        f"{missing:,} of {rows:,} rows of {summary['truth']} {have} no prediction "
        f"and {are} in none of these scores:"
    ]


def worst(scored: Scored, table: AnswerTable) -> str:
    """The rows with most errors, reference and answer one below the other, where the task can show that."""
    aligned = scored.judged.alignments
    if aligned is None:
        return ""
    places = files.worst_first(scored.judged, lower_is_better=True)[:_WORST]
    shown = [
        f"{table.unit} {table.numbers[place]}\n{aligned(place)}"
        for place in places
        if scored.judged.score[place]
    ]
    return "\n\n".join([f"\nrows with most errors (more in {files.ALIGNMENTS}):", *shown]) if shown else ""


def written(scored: Scored) -> list[str]:
    """The names of the files that an evaluation has written."""
    return [files.SCORES, files.ROWS, *([files.ALIGNMENTS] if scored.judged.alignments else [])]


def spelled(name: str) -> str:
    """A score's name for people."""
    return _SPELLED.get(name, name.replace("_", " "))


def value(name: str, number: float | None, signed: bool = False) -> str:
    """A score for people: in per cent, if it is a share."""
    if number is None:
        return "–"
    sign = "+" if signed else ""
    return f"{number:{sign}.4f}" if name in _NO_SHARES else f"{100 * number:{sign}.2f} %"


def _counts(summary: Mapping[str, Any]) -> str:
    failed = summary.get("no_answer", {}).get("rows", 0)
    left = sum(summary.get("left_out", {}).values())
    said = [f"{failed} without an answer"] if failed else []
    said += [f"{left} left out"] if left else []
    said += [f"{len(summary[name])} {name}" for name in ("missing", "extra") if summary.get(name)]
    if summary.get("normalizer"):
        said.append(f"normalizer {summary['normalizer']}")
    return "".join(f", {text}" for text in said)


def _interval(name: str, found: Mapping[str, float | None], signed: bool = False) -> str:
    if found["low"] is None:
        return ""
    low, high = (value(name, found[end], signed).removesuffix(" %") for end in ("low", "high"))
    return f"{low} to {high}"


def _slices(summary: Mapping[str, Any], column: str, interval: str) -> str:
    found = summary["slices"][column]
    main = next(iter(summary["scores"]))
    table = [[f"by {column}", "rows", spelled(main), interval]]
    for name, part in [*found.items()][:_SLICES]:
        small = "  few rows" if part.get("small") else ""
        score = part["scores"].get(main, {"value": None, "low": None, "high": None})
        shown = cut(name) or "(empty)"
        table.append([shown, str(part["rows"]), value(main, score["value"]), _interval(main, score) + small])
    lines = aligned(table)
    more = len(found) - _SLICES
    return f"{lines}\n  and {more} more in {files.SCORES}" if more > 0 else lines


def _errors(found: Mapping[str, Mapping[str, int]]) -> str:
    """What the error rates of speech consist of."""
    table = [["errors", "substitutions", "deletions", "insertions", "right", "of"]]
    table += [[unit, *(f"{count:,}" for count in counts.values())] for unit, counts in found.items()]
    return aligned([[*row, ""] for row in table])


def _against(found: Mapping[str, Any]) -> str:
    table = [["", "here", "there", "difference", "95 % interval", "p", ""]]
    for name, part in found.items():
        if not isinstance(part, Mapping):
            continue
        table.append(
            [
                spelled(name),
                value(name, part["value"]),
                value(name, part["other"]),
                value(name, part["difference"], signed=True),
                _interval(name, part, signed=True),
                "" if part["p"] is None else f"{part['p']:.3f}",
                _verdict(name, part),
            ]
        )
    return f"against {found['file']}, {found['rows']} rows:\n{aligned(table)}"


def _verdict(name: str, part: Mapping[str, Any]) -> str:
    if part["low"] is None:
        return ""
    if part["low"] <= 0 <= part["high"]:
        return "no clear difference"
    return "better" if (part["high"] < 0) == is_lower_better(name) else "worse"


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Rows as lines: the first column to the left, the others to the right, the last to the left."""
    widths = [max(_width(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0] + " " * (widths[0] - _width(row[0]))]
        for column in range(1, len(row)):
            padding = " " * (widths[column] - _width(row[column]))
            cells.append(row[column] + padding if column == len(row) - 1 else padding + row[column])
        lines.append(("  " + "   ".join(cells)).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """The columns that a text takes on a terminal, where a Chinese character takes two."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def cut(name: str) -> str:
    """A slice's name in one line of a width that leaves room for numbers."""
    line = "".join(letter if letter.isprintable() else " " for letter in name)
    if _width(line) <= _NAME_WIDTH:
        return line
    while _width(line) >= _NAME_WIDTH:
        line = line[:-1]
    return line + "…"
