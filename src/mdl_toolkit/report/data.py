"""What a report's page is given: one JSON object. This file is where its form is laid down.

Numbers are numbers, shares lie between 0 and 1, what is missing is ``null``, and NaN never occurs. Python
collects (``collect.py`` and the files beside it), ``assemble.py`` puts the object into the page, and the
scripts in ``page/`` show it. Each class below is an object of the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

#: A point of a curve: the step, and the value; ``None`` where it was no finite number.
Point = tuple[float, float | None]


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """The rows of a set.

    Attributes:
        columns: Names in order, as in ``rows.csv``.
        rows: The cells of each row. Columns that hold nothing but numbers by their meaning (``score``,
            ``row``, ``probability``, ``mean_logprob``, …) are numbers, ``correct`` is true or false, all
            others are texts as they stand in the input; an empty cell is ``None``.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class ReportSet:
    """Scored answers: what an evaluation's folder holds.

    Attributes:
        name: ``main``, ``test``, …: sets of one name in several runs are compared.
        task: By what it was scored: ``asr``, ``classification``, …
        main_score: The score of ``scores`` that counts most; ``None`` where there is none.
        rows: How many rows were scored.
        scores: By name, each ``{"value", "low", "high"}``; the bounds are ``None`` where not computed.
        slices: By column and value, each ``{"rows", "scores", "small"}``.
        per_class: By label, ``{"precision", "recall", "f1", "support"}``.
        per_label: By label, ``{"ap", "support"}``.
        confusion: ``{"labels", "counts"}``: a row of counts for each label of the truth, a column for each of
            ``labels``; the last is ``(no label)`` where there are answers that are none of them.
        calibration: ``{"bins", "ece"}``.
        left_out: How many rows no score counts, by the reason.
        against: What ``evaluate --against`` found: ``file``, and by score its comparison.
        table: The rows.
        reference: The column of ``table`` that holds the truth; ``None`` without one.
        prediction: The column of ``table`` that holds the answer.
        audio: For each row its place in the page's ``audio``, or ``None`` where the page has no clip of it.
        audio_note: Said once of the set where clips are missing, and why; ``None`` where all are there.
        keys: For each row a number; rows of sets of this name in several runs that have the same number are
            the same clip. ``None`` where only one run has the set.
        input_columns: The columns of a corrected CSV in order: those that were in the input, and
            ``prediction`` for the answer, in any case.
        source: The file that was scored, as it was given.
        normalizer: How texts were normalised before they were compared; ``None`` where they weren't.
    """

    name: str
    task: str
    main_score: str | None
    rows: int
    scores: Mapping[str, Mapping[str, float | None]]
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float | None]] | None = None
    per_label: Mapping[str, Mapping[str, float | None]] | None = None
    confusion: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    against: Mapping[str, Any] | None = None
    table: ReportTable
    reference: str | None
    prediction: str
    audio: Sequence[int | None]
    audio_note: str | None = None
    keys: Sequence[int] | None = None
    input_columns: Sequence[str] = ()
    source: str | None = None
    normalizer: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """A training run, or a set of scored answers alone.

    Attributes:
        name: Unique in the page.
        headline: What was trained on what, and how good it is, in a line.
        facts: Name and value of what else is worth knowing, in order.
        series: What was measured at each step, by name: ``loss``, ``learning_rate``, ``grad_norm``,
            ``clips_per_second``, ``padding_share`` (0 to 1), ``memory`` (bytes), and ``loss/NAME`` of a part
            of the data. Long series are thinned; highs and lows stay.
        evaluations: What was measured at evaluations, by name: ``eval_loss``, ``eval_wer``,
            ``eval_loss/old``, …; also at step 0, before the first one.
        sets: The scored answers.
    """

    name: str
    headline: str
    facts: Sequence[tuple[str, str]] = ()
    series: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    evaluations: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    sets: Sequence[ReportSet] = ()


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two runs on the rows of a set that both have.

    Attributes:
        set: The set's name.
        score: The score's name.
        run: The name of the run that is compared.
        other: The name of the run that it is compared with: the page's first.
        rows: How many rows both have.
        value: The score of ``run`` on these rows.
        other_value: The score of ``other`` on them.
        difference: ``value`` less ``other_value``.
        low: The lower bound of its 95 % interval; ``None`` where it couldn't be computed.
        high: The upper bound.
        p: How likely so large a difference is if there is none, by a paired test.
        better: Whether ``run`` is better, ``None`` where the interval has 0 in it: there is no telling.
    """

    set: str
    score: str
    run: str
    other: str
    rows: int
    value: float
    other_value: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    better: bool | None


@dataclass(frozen=True, kw_only=True)
class ReportClip:
    """A clip that can be played.

    Attributes:
        src: Address of the sound: a file beside the page, relative to it, or a ``data:`` address. ``None``
            where it couldn't be read.
        picture: Address of its spectrogram, a PNG: time to the right, pitch upwards (mel, 0 to 8 kHz), white
            is silence and dark is loud. ``None`` without one.
        seconds: How long it is.
        path: As in the input.
        missing: Why it can't be played, in a line; ``None`` where it can.
    """

    src: str | None
    picture: str | None
    seconds: float | None
    path: str
    missing: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReportPage:
    """All of it.

    Attributes:
        title: The page's title.
        version: Of the toolkit.
        generated: When, as ``2026-01-31 12:00``, in local time.
        runs: In the order in which they were named; the others are compared with the first.
        comparisons: Differences between runs.
        audio: The clips, each once, whatever number of rows and runs has it.
        lower_is_better: The scores and evaluations in the page that are better when lower; all others are
            better when higher.
        notes: What a person should know of the page as a whole, each in a line.
    """

    title: str
    version: str
    generated: str
    runs: Sequence[ReportRun]
    comparisons: Sequence[RunComparison] = ()
    audio: Sequence[ReportClip] = ()
    lower_is_better: Sequence[str] = ()
    notes: Sequence[str] = ()


def plain(value: Any) -> Any:
    """A page, or a part of it, as ``json`` takes it; what isn't an object of this file stays as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (list, tuple)) and any(is_dataclass(one) for one in value):
        return [plain(one) for one in value]
    return value
