"""Findings about clips: silent, clipped, shifted, odd lengths, and those that are there more than once."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from mdl_toolkit.inspection.collected import Collected
from mdl_toolkit.inspection.copies import Copies, CopyGroup
from mdl_toolkit.inspection.findings.remark import (
    NOTE,
    PROBLEM,
    SHOWN,
    WARNING,
    Remark,
    plain,
    quoted,
    rows_remark,
    with_verb,
)

#: A clip is clipped with so many samples in flat tops, and so many of a thousand beyond full scale.
_FLAT, _BEYOND = 9, 1
#: A clip is shifted by at least this share of full scale, and this share of its loudness.
_SHIFT, _SHIFT_OF_LOUDNESS = 0.005, 0.1
#: A shift by this share of a clip's loudness is more than a note.
_FAR = 0.5
#: A clip whose loudest sample is below −50 dB of full scale is nearly silent.
_QUIET = 10 ** (-50 / 20)
#: A clip is unusually long or short if its length is by this factor from the median, and by so many of the
#: usual deviations (of logarithms; the median of deviations stands for them).
_FACTOR, _DEVIATIONS = 3.0, 5.0
_LEAST_ROWS = 20


def levels(collected: Collected) -> list[Remark]:
    """Clips that are silent, nearly silent, clipped, or shifted."""
    silent, seconds = collected.silent(), collected.seconds()
    without_sound = set(silent)
    heard = [(row, f) for row, f in enumerate(collected.facts) if f and row not in without_sound]
    quiet = [(row, f.levels.peak) for row, f in heard if f.levels.peak < _QUIET]
    clipped = [
        (row, f.levels)
        for row, f in heard
        if f.levels.flat >= _FLAT or f.levels.beyond > _BEYOND / 1000 * f.rate * seconds[row]
    ]
    shifted = [
        (row, f.levels)
        for row, f in heard
        if abs(f.levels.offset) >= max(_SHIFT, _SHIFT_OF_LOUDNESS * f.levels.loudness)
    ]
    far = any(abs(found.offset) >= _FAR * found.loudness for _, found in shifted)
    return [
        *rows_remark(
            collected, WARNING, "silent", silent, "have no sound at all", "take them out, unless it is meant"
        ),
        *rows_remark(
            collected, WARNING, "nearly silent", [row for row, _ in quiet],
            "are very quiet, below −50 dB of full scale", "listen to some; take out what can't be heard",
            [f"its loudest sample at {20 * np.log10(peak + 1e-9):.0f} dB" for _, peak in quiet[:SHOWN]],
        ),
        *rows_remark(
            collected, WARNING, "clipped", [row for row, _ in clipped],
            "are clipped, cut flat at the loudest places", "record or export again at a lower level",
            [
                f"{found.flat} samples in flat tops" if found.flat >= _FLAT else
                f"{found.beyond} samples beyond full scale"
                for _, found in clipped[:SHOWN]
            ],
        ),
        *rows_remark(
            collected, WARNING if far else NOTE, "shifted", [row for row, _ in shifted],
            "are shifted from zero (a constant offset, DC)", "subtract the mean, or mend the recorder",
            [f"by {100 * found.offset:.1f} % of full scale" for _, found in shifted[:SHOWN]],
        ),
    ]  # fmt: skip


def lengths(collected: Collected) -> list[Remark]:
    """Clips that are much longer or shorter than the others."""
    seconds = collected.seconds()
    rows = np.flatnonzero(seconds > 0)
    if len(rows) < _LEAST_ROWS:
        return []
    logs = np.log(seconds[rows])
    middle = float(np.median(logs))
    usual = max(1.4826 * float(np.median(np.abs(logs - middle))), np.log(_FACTOR) / _DEVIATIONS)
    found: list[Remark] = []
    for topic, side, remedy in (
        ("unusually long", 1, "listen to the longest: is it one recording, with one answer?"),
        ("unusually short", -1, "listen to the shortest: is the answer in them?"),
    ):
        apart = side * (logs - middle)
        odd = rows[apart > _DEVIATIONS * usual]
        odd = odd[np.argsort(-side * seconds[odd], kind="stable")]
        details = [f"{seconds[row]:.2f} s" for row in odd[:SHOWN]]
        text = f"have an {topic} clip, beside a median of {np.exp(middle):.2f} s"
        found += rows_remark(collected, NOTE, topic, odd.tolist(), text, remedy, details)
    return found


def formats(collected: Collected) -> list[Remark]:
    """Recordings of several rates: what is above the lowest one is there in some clips only."""
    rates = Counter(facts.rate for facts in collected.facts if facts is not None)
    below = {rate: number for rate, number in rates.items() if rate < collected.sample_rate}
    total = sum(rates.values())
    if not below or sum(below.values()) == total:
        return []
    listed = ", ".join(f"{rate} Hz ({number:,})" for rate, number in sorted(rates.items()))
    rows = [row for row, facts in enumerate(collected.facts) if facts is not None and facts.rate in below]
    return [
        Remark(
            NOTE,
            "sample rates",
            with_verb(len(rows), "clip", "", f"have a lower rate than the model's {collected.sample_rate} Hz")
            + f", the others not: {listed}",
            "make sure that it isn't the answer that decides the rate: a model learns such a shortcut",
            tuple(rows),
            tuple(collected.row_name(row) for row in rows[:SHOWN]),
        )
    ]


def repeated(collected: Collected, copies: Copies) -> list[Remark]:
    """The same sound in several rows: with different answers, or with the same one more than once.

    Rows of one recording that ask for different things (other prompts) are no repetition.
    """
    against: list[_Alike] = []
    double: list[_Alike] = []
    for group in copies.groups:
        by_prompt: dict[int, list[int]] = {}
        for row in group.rows(0):
            if row not in collected.problems:
                by_prompt.setdefault(collected.prompt(row), []).append(row)
        for rows in by_prompt.values():
            for alike in _alike(collected, group, rows):
                contradicts = len({plain(collected.answer(row) or "") for row in alike.rows}) > 1
                (against if contradicts and alike.kind != "part" else double).append(alike)
    found = _group_remark(
        collected, PROBLEM, "contradiction", against,
        "have the sound of another row, but another answer",
        "listen, keep the row that is right, and take the others out",
    )  # fmt: skip
    for kind, topic, text in (
        ("identical", "identical", "have the sound of another row, sample by sample"),
        ("copy", "near-duplicate", "have the sound of another row, re-encoded, at another level, or cut"),
        ("part", "overlapping", "share a part of their sound with another row"),
    ):
        chosen = [alike for alike in double if alike.kind == kind]
        remedy = "keep one of each: repeated rows count twice" if kind != "part" else "is that meant?"
        found += _group_remark(collected, WARNING, topic, chosen, text, remedy)
    if copies.left_out:
        found.append(
            Remark(
                NOTE,
                "not compared",
                f"{copies.left_out:,} pairs of clips that share little were not compared: too many are alike",
            )
        )
    return found


class _Alike(NamedTuple):
    """Rows with the same sound and the same prompts.

    Attributes:
        kind: How they are the same, as a group's kind.
        likeness: How alike they are.
        rows: The rows.
    """

    kind: str
    likeness: float
    rows: list[int]


def _alike(collected: Collected, group: CopyGroup, rows: list[int]) -> list[_Alike]:
    """The rows of a group that are the same to the sample, and how they and the others are alike."""
    by_digest: dict[bytes, list[int]] = {}
    for row in rows:
        by_digest.setdefault(collected.digest(row), []).append(row)
    same = [_Alike("identical", 1.0, members) for members in by_digest.values() if len(members) > 1]
    if len(by_digest) == 1:
        return same
    if group.kind == "part":
        first = [members[0] for members in by_digest.values()]
        return [*same, _Alike(group.kind, group.likeness, first)]
    every = _Alike(group.kind, group.likeness, rows)
    answers = {plain(collected.answer(row) or "") for row in rows}
    return [every] if len(answers) > 1 or not same else [*same, every]


def _group_remark(
    collected: Collected,
    level: str,
    topic: str,
    groups: list[_Alike],
    text: str,
    remedy: str,
) -> list[Remark]:
    if not groups:
        return []
    rows = sorted({row for alike in groups for row in alike.rows})
    examples = []
    for kind, likeness, members in groups[:SHOWN]:
        named = [
            collected.row_name(row)
            + (f" {quoted(collected.answer(row) or '', 30)}" if topic == "contradiction" else "")
            for row in members[:3]
        ]
        more = f" and {len(members) - 3} more" if len(members) > 3 else ""
        examples.append(" = ".join(named) + more + how_alike(kind, likeness))
    return [Remark(level, topic, with_verb(len(rows), "row", "", text), remedy, tuple(rows), tuple(examples))]


def how_alike(kind: str, likeness: float) -> str:
    """How alike clips are, to follow their names."""
    return "" if kind == "identical" else f" (likeness {likeness:.2f})"
