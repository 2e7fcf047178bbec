"""What is printed below the scores: labels, common confusions, calibration, answers that can't be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mdl_toolkit.scoring.printed import aligned, cut, value
from mdl_toolkit.scoring.task import Answer, every_of

#: Answers that are quoted, and how much of each.
_SHOWN = 3
_LENGTH = 60
#: Labels and confusions that are printed; all are in ``scores.json``.
_LABELS = 15
_CONFUSIONS = 5


def tables(summary: Mapping[str, Any]) -> str:
    """Tables of labels, of confusions and of calibration, where an evaluation has them."""
    parts = []
    if "per_class" in summary:
        parts.append(_labels(summary["per_class"], ("precision", "recall", "f1")))
    if "per_label" in summary:
        parts.append(_labels(summary["per_label"], ("ap", "f1")))
    if "confusion" in summary:
        parts.append(_confusions(**summary["confusion"]))
    if "calibration" in summary:
        parts.append(_calibration(summary["calibration"]))
    return "".join(f"\n{part}\n" for part in parts if part).rstrip("\n")


def unread_lines(
    unread: Mapping[str, Sequence[int]], answers: Sequence[Answer | None], numbers: Sequence[int], unit: str
) -> list[str]:
    """A line for each kind of answer that a task couldn't read, with how many there are and the first ones.

    Args:
        unread: The places of the answers, by what is said of them: ``name no label``.
        answers: All answers; those that are ``None`` aren't told of again.
        numbers: The number of each row in its file.
        unit: What the numbers count.
    """
    lines = []
    for said, all_places in unread.items():
        places = [place for place in all_places if answers[place] is not None]
        if places:
            shown = ", ".join(f"{unit} {numbers[p]}: {_quoted(answers[p])}" for p in places[:_SHOWN])
            more = ", …" if len(places) > _SHOWN else ""
            lines.append(f"{len(places)} of {len(answers)} answers {said} ({shown}{more})")
    return lines


def _labels(found: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The labels with most to gain: those with the lowest F1 that are true in some row."""
    there = {label: part for label, part in found.items() if part["support"]}
    worst = sorted(there, key=lambda label: (there[label]["f1"], -there[label]["support"]))
    spelled = {"f1": "F1", "ap": "AP"}
    table = [["label, the worst first", "rows", *(spelled.get(name, name) for name in columns), ""]]
    table += [
        [cut(label), str(there[label]["support"]), *(value("", there[label][name]) for name in columns), ""]
        for label in worst[:_LABELS]
    ]
    more = len(worst) - _LABELS
    return aligned(table) + (f"\n  and {more} more in scores.json" if more > 0 else "")


def _confusions(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    pairs = [
        (count, labels[truth], labels[given])
        for truth, row in enumerate(counts)
        for given, count in enumerate(row)
        if count and truth != given
    ]
    if not pairs:
        return ""
    first = sorted(pairs, key=lambda pair: -pair[0])[:_CONFUSIONS]
    table = [["most often confused", "", "rows", ""]]
    table += [[cut(truth), f"→ {cut(given)}", str(count), ""] for count, truth, given in first]
    widest = max(len(row[1]) for row in table)
    return aligned([[row[0], row[1].ljust(widest), *row[2:]] for row in table])


def _calibration(found: Mapping[str, Any]) -> str:
    """How often answers are right, by the probability that the model gives them."""
    table = [["probability", "rows", "mean", "right", ""]]
    for part in found["bins"]:
        if part["rows"]:
            between = f"{part['low']:.1f} to {part['high']:.1f}"
            shares = (value("", part["confidence"]), value("", part["accuracy"]))
            table.append([between, str(part["rows"]), *shares, ""])
    without = f"; {found['without']} rows have no probability" if found["without"] else ""
    return f"{aligned(table)}\n  expected calibration error {value('', found['ece'])}{without}"


def _quoted(answer: Answer | None) -> str:
    text = " ".join("; ".join(every_of(answer or "")).split())
    return f'"{text[:_LENGTH]}…"' if len(text) > _LENGTH else f'"{text}"'
