"""The object that ``--json`` prints, and that the text and the page are made of.

::

    {"ok": no problem, "problems": 1, "warnings": 2, "notes": 0,
     "findings": [{"level", "topic", "text", "remedy", "rows": how many, "lines": [all of them, in INPUT],
                   "examples": [texts]}],                    # problems first, then by the number of rows
     "sets": [{"name", "rows", "usable", "seconds", "model": name or null, "order",
               "clips": {"count", "min", "p5", "p25", "median", "p75", "p95", "max", "mean",
                         "histogram": [{"low", "high", "rows"}]},          # seconds; null without clips
               "answers": {"rows", "distinct", "labels": whether they are labels,
                           "most_frequent": [{"answer", "rows"}],          # all of them where they are labels
                           "unit": "tokens" | "words" | "characters", "lengths": {as clips} or null},
               "prompts": [{"system_prompt", "user_prompt", "rows"}],
               "files": [{"kind", "rate", "channels", "rows"}]}],          # INPUT, then --against
     "refused": [{"line", "reason"}],                                      # all rows that would be refused
     "copies": [{"kind": "identical" | "copy" | "part", "likeness",
                 "lines": [in INPUT], "other_lines": [in --against]}]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.inspection.collected import Collected
from mdl_toolkit.inspection.copies import Copies
from mdl_toolkit.inspection.findings import between, rows, sounds, texts
from mdl_toolkit.inspection.findings.remark import LEVELS, NOTE, PROBLEM, WARNING, Remark

#: Answers that are listed where they aren't labels.
_LISTED = 20
#: Most bars of a histogram.
_BARS = 16
#: Widths of a histogram's bars, times a power of ten.
_STEPS = (1, 2, 2.5, 5, 10)


def summary(sets: Sequence[Collected], copies: Copies) -> dict[str, Any]:
    """Everything that was found.

    Args:
        sets: The set that is inspected, and the one that it is held against, if any.
        copies: Which of their clips are the same.
    """
    first = sets[0]
    found = findings(sets, copies)
    levels = Counter(remark.level for remark in found)
    return {
        "ok": not levels[PROBLEM],
        "problems": levels[PROBLEM],
        "warnings": levels[WARNING],
        "notes": levels[NOTE],
        "findings": [remark.as_json(first) for remark in found],
        "sets": [describe(one) for one in sets],
        "refused": [
            {"line": first.line(row), "reason": reason} for row, reason in sorted(first.problems.items())
        ],
        "copies": [
            {
                "kind": group.kind,
                "likeness": round(group.likeness, 4),
                "lines": [first.line(row) for row in group.rows(0)],
                "other_lines": [sets[1].line(row) for row in group.rows(1)],
            }
            for group in copies.groups
        ],
    }


def findings(sets: Sequence[Collected], copies: Copies) -> list[Remark]:
    """All findings, the worst first: problems before warnings before notes, of these those of most rows."""
    first = sets[0]
    found = [
        *rows.whole_table(first),
        *rows.refused(first),
        *sounds.repeated(first, copies),
        *sounds.levels(first),
        *sounds.lengths(first),
        *sounds.formats(first),
        *texts.answers(first),
        *texts.balance(first),
        *texts.prompts(first),
    ]
    if len(sets) > 1:
        other = sets[1]
        found += between.leakage(first, other, copies)
        found += between.labels(first, other)
        found += between.prompts(first, other)
    return sorted(found, key=lambda remark: (LEVELS.index(remark.level), -len(remark.rows)))


def describe(one: Collected) -> dict[str, Any]:
    """A set in numbers."""
    seconds = one.seconds()
    seconds = seconds[seconds > 0]
    return {
        "name": one.name,
        "rows": len(one),
        "usable": one.usable,
        "seconds": round(float(seconds.sum()), 3),
        "model": one.model,
        "order": one.order,
        "clips": spread(seconds),
        "answers": _answers(one),
        "prompts": _prompts(one),
        "files": _files(one),
    }


def _answers(one: Collected) -> dict[str, Any]:
    counts = texts.label_counts(one)
    labels = texts.are_labels(counts)
    sizes, unit = texts.answer_sizes(one)
    listed = counts.most_common(None if labels else _LISTED) if one.readable else []
    return {
        "rows": sum(counts.values()),
        "distinct": len(counts),
        "labels": labels,
        "most_frequent": [{"answer": answer, "rows": number} for answer, number in listed],
        "unit": unit,
        "lengths": spread(sizes[sizes >= 0].astype(np.float64), whole=True),
    }


def _prompts(one: Collected) -> list[dict[str, Any]]:
    values, numbers = one.prompts()
    counts = np.bincount(numbers[numbers >= 0], minlength=len(values))
    order = np.argsort(-counts, kind="stable").tolist() if one.readable else []
    return [
        {"system_prompt": values[i][0], "user_prompt": values[i][1], "rows": int(counts[i])} for i in order
    ]


def _files(one: Collected) -> list[dict[str, Any]]:
    forms = Counter((f.kind, f.rate, f.channels) for f in one.facts if f is not None)
    return [
        {"kind": kind, "rate": rate, "channels": channels, "rows": number}
        for (kind, rate, channels), number in forms.most_common()
    ]


def spread(values: NDArray[np.float64], whole: bool = False) -> dict[str, Any] | None:
    """Percentiles and a histogram of lengths."""
    if not len(values):
        return None
    marks = np.percentile(values, [0, 5, 25, 50, 75, 95, 100])
    names = ("min", "p5", "p25", "median", "p75", "p95", "max")
    return {
        "count": len(values),
        **{name: round(float(mark), 3) for name, mark in zip(names, marks, strict=True)},
        "mean": round(float(values.mean()), 3),
        "histogram": _histogram(values, whole),
    }


def _histogram(values: NDArray[np.float64], whole: bool) -> list[dict[str, Any]]:
    """Bars of one round width up to the 99th percentile; the last one has all above."""
    low, high = float(values.min()), float(np.percentile(values, 99))
    width = _round_width((high - low) / _BARS, whole)
    begin = np.floor(low / width) * width
    count = max(1, int(np.floor((high - begin) / width)) + 1)
    edges = begin + width * np.arange(count + 1)
    places = np.clip(((values - begin) / width).astype(np.int64), 0, count - 1)
    rows_of = np.bincount(places, minlength=count).tolist()
    # A bar doesn't have its upper edge, but for the last one of lengths that aren't whole.
    highs = [*edges[1:-1].tolist(), max(float(edges[-1]), float(values.max()) + whole)]
    return [
        {"low": round(float(left), 3), "high": round(float(right), 3), "rows": number}
        for left, right, number in zip(edges[:-1], highs, rows_of, strict=True)
    ]


def _round_width(width: float, whole: bool) -> float:
    """The next width that is easy to read."""
    width = max(width, 1.0 if whole else 0.01)
    power = 10 ** np.floor(np.log10(width))
    steps = [step for step in _STEPS if not whole or step * power == int(step * power)]
    return float(next(step * power for step in (*steps, 20) if step * power >= width * 0.999))
