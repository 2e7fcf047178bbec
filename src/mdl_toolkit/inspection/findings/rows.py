"""Findings about rows that would be refused, and about the table as a whole."""

from __future__ import annotations

import re
from collections import Counter

from mdl_toolkit.inspection.collected import Collected
from mdl_toolkit.inspection.findings.remark import NOTE, PROBLEM, WARNING, Remark, rows_remark

#: Kinds of reasons that are told.
_KINDS = 3


def refused(collected: Collected) -> list[Remark]:
    """Rows that ``convert-dataset`` and ``train`` would refuse, for the reasons that they would give."""
    rows = sorted(collected.problems)
    reasons = [collected.problems[row] for row in rows]
    text = f"can't be used, and training stops at {'them' if len(rows) > 1 else 'it'}"
    if len(kinds := Counter(map(_kind, reasons))) > 1:
        common = [f"{number:,} × {kind}" for kind, number in kinds.most_common(_KINDS)]
        text += f": {'; '.join(common)}" + ("; and others" if len(kinds) > _KINDS else "")
    remedy = "mend them, or leave them out with --on-error skip"
    return rows_remark(collected, PROBLEM, "refused", rows, text, remedy, reasons)


def _kind(reason: str) -> str:
    """A reason without the file's name and numbers."""
    said = re.sub(r"^\S.*?\.\w{2,4}: ", "", reason)
    return re.split(r"[;:(,]", re.sub(r"\d[\d.]*", "N", said))[0].strip()


def whole_table(collected: Collected) -> list[Remark]:
    """What is to be said of the table as a whole."""
    found = [Remark(WARNING, "table", f"{collected.name}: {sentence}") for sentence in collected.remarks]
    if not collected.has_answers:
        found.append(
            Remark(
                PROBLEM,
                "no answers",
                f"{collected.name} has no column prediction: inference takes it, training refuses it",
                "name the column with the answers prediction",
            )
        )
    elif collected.usable == 0:
        found.append(Remark(PROBLEM, "no rows", f"{collected.name} has no row that can be used"))
    if collected.model_note:
        found.append(Remark(NOTE, "model", f"tokens are not counted: {collected.model_note}"))
    return found
