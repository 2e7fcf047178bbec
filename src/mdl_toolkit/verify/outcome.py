"""The result of a verification, as a table for people and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdl_toolkit.errors import printable
from mdl_toolkit.verify.traces import FormComparison, Parting

#: Partings that are shown of a form; JSON has all of them.
_SHOWN = 3


@dataclass(frozen=True)
class FormOutcome:
    """What became of a form.

    Attributes:
        name: As ``--form`` has it.
        title: For people.
        tolerance: The difference that is accepted, in nats.
        comparison: How far it is from the reference; ``None`` where it wasn't compared.
        left_out: Why it wasn't.
        failed: Whether it should have been, and could not be asked.
        faults: Known faults of the engine's version, a sentence each.
    """

    name: str
    title: str
    tolerance: float
    comparison: FormComparison | None = None
    left_out: str = ""
    failed: bool = False
    faults: Sequence[str] = ()

    @property
    def passes(self) -> bool:
        """Whether nothing speaks against this form."""
        if self.comparison is None:
            return not self.failed
        return self.comparison.passes(self.tolerance)

    @property
    def verdict(self) -> str:
        """In a word or two."""
        assert self.comparison is not None
        if not self.passes:
            return "PARTS"
        ties = len(self.comparison.partings)
        return f"ok, {ties} near {'tie' if ties == 1 else 'ties'}" if ties else "ok"


@dataclass(frozen=True)
class Verification:
    """All of it.

    Attributes:
        data: The table that the rows are from.
        lines: Their numbers in it.
        reference: What the reference is.
        outcomes: The forms, in order.
        decode: Makes text of tokens.
        answers: The reference's answers.
    """

    data: str
    lines: Sequence[int]
    reference: str
    decode: Callable[[Sequence[int]], str]
    answers: Sequence[Sequence[int]]
    outcomes: list[FormOutcome] = field(default_factory=list)

    @property
    def parted(self) -> list[FormOutcome]:
        """Forms that don't pass."""
        return [outcome for outcome in self.outcomes if not outcome.passes]

    def table(self) -> str:
        """For people: a line for each form, then where answers part, then what was left out."""
        compared = [outcome for outcome in self.outcomes if outcome.comparison is not None]
        rows: list[tuple[str, ...]] = [("form", "same answers", "largest difference", "mean", "accepted", "")]
        rows += [(outcome.title, *_cells(outcome)) for outcome in compared]
        widths = [max(len(row[place]) for row in rows) for place in range(5)]
        lines = [f"{len(self.lines)} rows of {self.data}; the reference is {self.reference}", ""]
        for first, *numbers, verdict in rows:
            right = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join([f"{first:{widths[0]}}", *right, verdict]).rstrip())
        lines += ["", "Differences are of log-probabilities of tokens (0.1: a tenth more or less likely)."]
        for outcome in compared:
            assert outcome.comparison is not None
            lines += self._partings(outcome, outcome.comparison)
        for outcome in self.outcomes:
            lines += [f"{outcome.title}: known fault: {fault}" for fault in outcome.faults]
            if outcome.comparison is None:
                what = "could not be asked" if outcome.failed else "left out"
                lines.append(f"{outcome.title}: {what}: {outcome.left_out}")
        return "\n".join(lines)

    def _partings(self, outcome: FormOutcome, found: FormComparison) -> list[str]:
        shown = sorted(found.partings, key=lambda parting: -parting.margin)
        lines = [f"{outcome.title}, {self._parting(parting)}" for parting in shown[:_SHOWN]]
        more = len(shown) - _SHOWN
        if found.worst_row is not None and not (found.largest or 0.0) <= outcome.tolerance:
            # Answers may be the same all the same.
            lines.insert(0, f"{outcome.title}, line {self.lines[found.worst_row]}: the largest difference")
        return lines + ([f"{outcome.title}: {more} more answers part"] if more > 0 else [])

    def _parting(self, parting: Parting) -> str:
        before = self.decode(self.answers[parting.row][: parting.place])
        expected = "its end" if parting.expected is None else repr(self.decode([parting.expected]))
        found = "its end" if parting.found is None else repr(self.decode([parting.found]))
        place = f"line {self.lines[parting.row]}, token {parting.place + 1}"
        return printable(f"{place}: after {before[-40:]!r}, {expected}{_odds(parting)} became {found}")

    def as_json(self) -> str:
        """Everything as one JSON object."""
        described: dict[str, Any] = {
            "ok": not self.parted,
            "data": self.data,
            "rows": len(self.lines),
            "reference": self.reference,
            "forms": {outcome.name: self._form_as_json(outcome) for outcome in self.outcomes},
        }
        return json.dumps(described, indent=2, ensure_ascii=False)

    def _form_as_json(self, outcome: FormOutcome) -> dict[str, Any]:
        found = outcome.comparison
        told: dict[str, Any] = {
            "title": outcome.title,
            "ok": outcome.passes,
            "known_faults": list(outcome.faults),
        }
        if found is None:
            return {**told, "compared": False, "why": outcome.left_out}
        return {
            **told,
            "compared": True,
            "same_answers": found.same,
            "largest_difference": _finite(found.largest),
            "mean_difference": _finite(found.mean),
            "tolerance": outcome.tolerance,
            "worst_line": None if found.worst_row is None else self.lines[found.worst_row],
            "partings": [
                {
                    "line": self.lines[parting.row],
                    "token": parting.place + 1,
                    "margin": _finite(parting.margin),
                    "expected": None if parting.expected is None else self.decode([parting.expected]),
                    "found": None if parting.found is None else self.decode([parting.found]),
                }
                for parting in found.partings
            ],
        }


def _cells(outcome: FormOutcome) -> tuple[str, ...]:
    found = outcome.comparison
    assert found is not None
    same = f"{found.same} of {found.rows}"
    return same, _number(found.largest), _number(found.mean), f"{outcome.tolerance:g}", outcome.verdict


def _odds(parting: Parting) -> str:
    """How sure the reference was of its token."""
    if math.isinf(parting.margin):
        return ""
    return f" ({math.exp(min(parting.margin, 50.0)):.3g} times as likely as the next)"


def _number(value: float | None) -> str:
    return "not told" if value is None else f"{value:.2g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
