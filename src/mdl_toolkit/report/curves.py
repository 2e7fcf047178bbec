"""The curves of a run, from its ``metrics.jsonl``: what was measured at each step, and at each evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import UserError
from mdl_toolkit.report.data import Point

#: In a run's folder; ``training/metrics/file.py`` writes it.
METRICS_FILE = "metrics.jsonl"
#: The most points of a curve. More than a screen has columns, and 10 curves of them are 0.3 MB.
MOST_POINTS = 1500
#: The curves of steps, in the order in which they are shown; there may be one of each part of the data, too.
_SERIES = ("loss", "learning_rate", "grad_norm", "clips_per_second", "padding_share", "memory")
#: Of an evaluation's line, what it cost and not what it found; of one set each, with ``/NAME`` behind it.
_COSTS = ("eval_rows", "eval_seconds")


@dataclass(frozen=True)
class RunCurves:
    """What a run has measured.

    Attributes:
        series: By name, values by step.
        evaluations: By name (``eval_loss``, ``eval_wer/old``), values by step.
        step: The last step; 0 if none has been made.
        seconds: The time of all steps and evaluations, also of those before the run was resumed.
        summary: What the run wrote at its end; empty if it hasn't ended.
        eval_rows: The rows of the last evaluation.
    """

    series: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    evaluations: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    summary: Mapping[str, Any] = field(default_factory=dict)
    eval_rows: int | None = None

    def last(self, name: str) -> float | None:
        """The last number of a curve; where the sets of an evaluation have names, the first set's."""
        named = next((other for other in self.evaluations if other.startswith(f"{name}/")), name)
        points = self.series.get(name) or self.evaluations.get(name) or self.evaluations.get(named) or ()
        return next((value for _, value in reversed(points) if value is not None), None)


def read_curves(path: Path) -> RunCurves:
    """Read a run's metrics.

    Lines that aren't whole, as a killed run may leave the last one, are passed over. Of two lines for a step
    the later one counts: a resumed run makes steps again.

    Raises:
        UserError: The file can't be read.
    """
    steps: dict[int, Mapping[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    summary: Mapping[str, Any] = {}
    for line in _objects(path):
        step = line.get("step")
        if not isinstance(step, int):
            summary = line
        elif "loss" in line:
            steps[step] = line
        else:
            evaluations.setdefault(step, {}).update(line)
    ordered = [(step, evaluations[step]) for step in sorted(evaluations)]
    costs = [*(_number(line.get("seconds")) for line in steps.values())]
    costs += [_number(line.get("eval_seconds")) for line in evaluations.values()]
    return RunCurves(
        series=_series([(step, steps[step]) for step in sorted(steps)]),
        evaluations=_without_twins(_by_name(ordered, _is_found)),
        step=max(steps, default=0),
        seconds=sum(cost for cost in costs if cost is not None),
        summary=summary,
        eval_rows=ordered[-1][1].get("eval_rows") if ordered else None,
    )


def _is_found(name: str) -> bool:
    """Whether a key of an evaluation's line is a result."""
    return name.startswith("eval_") and name.partition("/")[0] not in _COSTS


def _without_twins(curves: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """All curves but those of the first set that are there by its name as well: ``eval_wer/main``."""
    named = [(name.partition("/")[0], points) for name, points in curves.items() if "/" in name]
    return {name: points for name, points in curves.items() if "/" in name or (name, points) not in named}


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many points of a curve: of each stretch its ends, its high, its low, and a gap in it.

    A curve that is short enough stays whole.
    """
    if len(points) <= most:
        return list(points)
    stretches = max(1, most // 5)
    kept: list[Point] = []
    for number in range(stretches):
        part = points[len(points) * number // stretches : len(points) * (number + 1) // stretches]
        values = [(value, place) for place, (_, value) in enumerate(part) if value is not None]
        places = {0, len(part) - 1}
        if values:
            places |= {min(values)[1], max(values)[1]}
        if gap := next((place for place, (_, value) in enumerate(part) if value is None), None):
            places.add(gap)
        kept += [part[place] for place in sorted(places)]
    return kept


def _objects(path: Path) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(value, dict):
                    found.append(value)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error
    return found


def _series(lines: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, list[Point]]:
    made = [(step, {**line, "clips_per_second": _rate(line)}) for step, line in lines]
    parts = _by_name(made, lambda name: name.startswith("loss/"))
    return {**{name: points for name in _SERIES if (points := _curve(made, name))}, **parts}


def _by_name(lines: Sequence[tuple[int, Mapping[str, Any]]], wanted: Any) -> dict[str, list[Point]]:
    """The curves of all names that are wanted, in order of appearance."""
    names = dict.fromkeys(name for _, line in lines for name in line if wanted(name))
    return {name: points for name in names if (points := _curve(lines, name))}


def _curve(lines: Sequence[tuple[int, Mapping[str, Any]]], name: str) -> list[Point]:
    """Steps and values of one name; empty where there is no number at all."""
    points: list[Point] = [(step, _short(_number(line[name]))) for step, line in lines if name in line]
    return thinned(points) if any(value is not None for _, value in points) else []


def _rate(line: Mapping[str, Any]) -> float | None:
    clips, seconds = _number(line.get("clips")), _number(line.get("seconds"))
    return clips / seconds if clips is not None and seconds else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def _short(value: float | None) -> float | None:
    """Six digits: more are not seen, and make the page larger."""
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")
