"""Findings about answers and prompts."""

from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np

from mdl_toolkit.inspection.collected import Collected
from mdl_toolkit.inspection.findings.remark import NOTE, SHOWN, WARNING, Remark, plain, quoted, rows_remark

#: With at most so many different answers, and this many rows for each, they are labels.
MOST_LABELS, _ROWS_A_LABEL = 200, 3
#: A label is rare with fewer rows, or with less than this share of the most frequent one's.
_RARE_ROWS, _RARE_SHARE = 5, 0.05
#: Characters that look like a blank, or like nothing.
_UNSEEN = "\u00a0\u1680\u200e\u200f\u202f\u205f\u2060\ufeff\ufffd" + "".join(map(chr, range(0x2000, 0x200C)))
_LEAST_ROWS = 20
_FACTOR = 5.0


def label_counts(collected: Collected) -> Counter[str]:
    """How many rows have each different answer."""
    values, numbers = collected.answers()
    counts = np.bincount(numbers[numbers >= 0], minlength=len(values))
    return Counter(dict(zip(values, counts.tolist(), strict=True)))


def are_labels(counts: Counter[str]) -> bool:
    """Whether the answers are labels: few different ones for their number."""
    return 1 < len(counts) <= MOST_LABELS and sum(counts.values()) >= _ROWS_A_LABEL * len(counts)


def answers(collected: Collected) -> list[Remark]:
    """Answers that are empty, or look like others and are not the same to a model."""
    if not collected.readable:
        return []
    values, numbers = collected.answers()

    def rows_with(odd: list[int]) -> list[int]:
        return np.flatnonzero(np.isin(numbers, odd)).tolist() if odd else []

    def remark(level: str, topic: str, odd: list[int], text: str, remedy: str) -> list[Remark]:
        rows = rows_with(odd)
        details = [quoted(collected.answer(row) or "") for row in rows[:SHOWN]]
        return rows_remark(collected, level, topic, rows, text, remedy, details)

    empty = [i for i, value in enumerate(values) if not value.strip()]
    blanks = [i for i, value in enumerate(values) if value.strip() and _odd_blanks(value)]
    control = [i for i, value in enumerate(values) if _has_control(value)]
    loose = [i for i, value in enumerate(values) if unicodedata.normalize("NFC", value) != value]
    return [
        *remark(WARNING, "empty answer", empty, "have an empty answer: the model learns to say nothing",
                "write the answer, or take them out, unless it is meant"),
        *remark(WARNING, "control characters", control,
                "have control or invisible characters in the answer", "take them out of the text"),
        *remark(WARNING, "blanks", blanks, "have blanks at an end of the answer, or several in a row",
                "trim them: the model learns them as part of the answer"),
        *remark(WARNING, "unicode", loose, "have an answer that is not in Unicode's normal form (NFC)",
                "normalise it: é as one character and as two are different tokens"),
        *_case(collected, values, numbers),
        *_lengths(collected),
    ]  # fmt: skip


def _odd_blanks(text: str) -> bool:
    return text != text.strip() or "  " in text or "\t" in text


def _has_control(text: str) -> bool:
    # Line breaks and tabs are meant where answers have several lines; other control characters never are.
    return any(c in _UNSEEN or (unicodedata.category(c) == "Cc" and c not in "\n\t") for c in text)


def _case(collected: Collected, values: list[str], numbers: np.ndarray) -> list[Remark]:
    """Answers that differ from others by case, blanks or a final full stop only."""
    spellings: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        spellings.setdefault(plain(value), []).append(number)
    counts = np.bincount(numbers[numbers >= 0], minlength=len(values))
    groups = [sorted(group, key=lambda i: -int(counts[i])) for group in spellings.values() if len(group) > 1]
    if not groups:
        return []
    rare = [number for group in groups for number in group[1:]]
    rows = np.flatnonzero(np.isin(numbers, rare)).tolist()
    groups.sort(key=lambda group: -int(counts[group].sum()))
    listed = "; ".join(
        ", ".join(f"{quoted(values[i], 30)} ({counts[i]:,})" for i in group[:4]) for group in groups[:SHOWN]
    )
    return rows_remark(
        collected, WARNING, "spellings", rows,
        f"have an answer that others have in another spelling (case, blanks, a full stop): {listed}",
        "write each answer in one way: to a model they are different answers",
    )  # fmt: skip


def _lengths(collected: Collected) -> list[Remark]:
    """Answers that are much longer than the others."""
    sizes, unit = answer_sizes(collected)
    known = np.flatnonzero(sizes >= 0)
    if len(known) < _LEAST_ROWS:
        return []
    usual = max(8.0, float(np.percentile(sizes[known], 99)))
    odd = known[sizes[known] > _FACTOR * max(usual, float(np.median(sizes[known])))]
    odd = odd[np.argsort(-sizes[odd], kind="stable")]
    text = f"have an unusually long answer: 99 % of all have {usual:.0f} {unit} at most"
    return rows_remark(
        collected, NOTE, "long answers", odd.tolist(), text, "read the longest: is a quote missing?",
        [f"{int(sizes[row]):,} {unit}" for row in odd[:SHOWN]],
    )  # fmt: skip


def answer_sizes(collected: Collected) -> tuple[np.ndarray, str]:
    """The size of each row's answer, −1 where it isn't known, and the unit.

    Returns:
        Tokens where a model is at hand; words, or characters where most answers are written without blanks.
    """
    tokens = collected.answer_tokens()
    if (tokens >= 0).any():
        return tokens, "tokens"
    values, numbers = collected.answers()
    words = [len(value.split()) for value in values]
    unspaced = sum(any("\u2e80" <= c <= "\ud7ff" for c in value) for value in values)
    by_character = unspaced > len(values) / 2
    sizes = np.array([len(value) for value in values] if by_character else words, dtype=np.int64)
    found = np.where(numbers >= 0, sizes[numbers] if len(sizes) else 0, -1)
    return found, "characters" if by_character else "words"


def balance(collected: Collected) -> list[Remark]:
    """Labels with few rows."""
    counts = label_counts(collected)
    if not are_labels(counts):
        return []
    most = max(counts.values())
    rare = [(label, n) for label, n in counts.items() if n < max(_RARE_ROWS, _RARE_SHARE * most)]
    if not rare:
        return []
    rare.sort(key=lambda pair: pair[1])
    listed = ", ".join(f"{quoted(label, 30)} ({n:,})" for label, n in rare[:8])
    more = f" and {len(rare) - 8} more" if len(rare) > 8 else ""
    return [
        Remark(
            NOTE,
            "balance",
            f"{len(rare)} of {len(counts)} labels have few rows, beside {most:,} of the most frequent: "
            f"{listed}{more}",
            "add recordings of them, or expect the model to miss them",
        )
    ]


def prompts(collected: Collected) -> list[Remark]:
    """Prompts that differ between rows."""
    values, numbers = collected.prompts()
    if len(values) < 2:
        return []
    counts = np.bincount(numbers[numbers >= 0], minlength=len(values))
    order = np.argsort(-counts, kind="stable")
    listed = "; ".join(f"{prompt_text(values[i])} ({counts[i]:,})" for i in order[:3])
    more = f"; and {len(values) - 3} more" if len(values) > 3 else ""
    return [
        Remark(
            NOTE,
            "prompts",
            f"rows have {len(values)} different prompts: {listed}{more}",
            "where that isn't meant, write one prompt; at use, ask each question as in training",
        )
    ]


def prompt_text(prompts: tuple[str | None, str | None]) -> str:
    """A pair of prompts for people."""
    system, user = prompts
    parts = ([f"system {quoted(system)}"] if system else []) + ([quoted(user)] if user else [])
    return " and ".join(parts) or "none"
