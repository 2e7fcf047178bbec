"""Findings about two sets together: recordings in both, labels and prompts in one of them only."""

from __future__ import annotations

from mdl_toolkit.inspection.collected import Collected
from mdl_toolkit.inspection.copies import Copies
from mdl_toolkit.inspection.findings.remark import NOTE, PROBLEM, SHOWN, WARNING, Remark, quoted, with_verb
from mdl_toolkit.inspection.findings.sounds import how_alike
from mdl_toolkit.inspection.findings.texts import are_labels, label_counts, prompt_text

_LISTED = 8


def leakage(collected: Collected, other: Collected, copies: Copies) -> list[Remark]:
    """Recordings that are in both sets."""
    pairs: dict[str, list[tuple[int, int, float]]] = {"identical": [], "copy": [], "part": []}
    for group in copies.groups:
        there = {other.digest(row): row for row in reversed(group.rows(1))}
        for row in group.rows(0) if there else ():
            same = there.get(collected.digest(row))
            if same is not None:
                pairs["identical"].append((row, same, 1.0))
            else:
                pairs[group.kind].append((row, group.rows(1)[0], group.likeness))
    found = []
    for kind, topic, how in (
        ("identical", "leakage", "are in"),
        ("copy", "re-encoded leakage", "are, re-encoded, at another level or cut, in"),
        ("part", "partial leakage", "share a part of their sound with"),
    ):
        if not pairs[kind]:
            continue
        examples = [
            f"{collected.row_name(row)} = {other.row_name(place)}{how_alike(kind, likeness)}"
            for row, place, likeness in pairs[kind][:SHOWN]
        ]
        rows = tuple(sorted(row for row, _, _ in pairs[kind]))
        text = with_verb(len(rows), "row", f"of {collected.name}", f"{how} {other.name} too")
        remedy = "take them out of one of the two: a model seems better than it is on what it has heard"
        found.append(Remark(PROBLEM, topic, text, remedy, rows, tuple(examples)))
    return found


def labels(collected: Collected, other: Collected) -> list[Remark]:
    """Labels that only one of the sets has."""
    if not (collected.readable and other.readable):
        return []
    ours, theirs = label_counts(collected), label_counts(other)
    if not (are_labels(ours) and are_labels(theirs)):
        return []
    found = []
    for one, others, name, without, level in (
        (theirs, ours, other.name, collected.name, WARNING),
        (ours, theirs, collected.name, other.name, NOTE),
    ):
        only = [label for label, _ in one.most_common() if label not in others]
        if only:
            listed = ", ".join(f"{quoted(label, 30)} ({one[label]:,})" for label in only[:_LISTED])
            more = f" and {len(only) - _LISTED} more" if len(only) > _LISTED else ""
            text = with_verb(len(only), "label", f"of {name}", f"are not in {without}")
            remedy = "a label that was not in training is not learned; is it a spelling?"
            found.append(Remark(level, "labels", f"{text}: {listed}{more}", remedy))
    return found


def prompts(collected: Collected, other: Collected) -> list[Remark]:
    """Prompts that only one of the sets has."""
    if not (collected.readable and other.readable):
        return []
    (ours, _), (theirs, _) = collected.prompts(), other.prompts()
    if not (ours and theirs):  # of a set without a usable row there is nothing to say
        return []
    if set(ours) == set(theirs) and collected.order == other.order:
        return []
    if set(ours) == set(theirs):
        text = f"clip and text stand {collected.order} in {collected.name}, {other.order} in {other.name}"
        return [Remark(WARNING, "prompts differ", text, "convert both with one --prompt-order")]
    parts = []
    for one, others, name in ((ours, theirs, collected.name), (theirs, ours, other.name)):
        only = [prompt for prompt in one if prompt not in others]
        if only:
            listed = "; ".join(prompt_text(prompt) for prompt in only[:3])
            more = f"; and {len(only) - 3} more" if len(only) > 3 else ""
            parts.append(f"only in {name}: {listed}{more}")
    return [
        Remark(
            WARNING,
            "prompts differ",
            f"the sets ask with different prompts; {', '.join(parts)}",
            "ask with the prompt of the training: another one is the commonest silent failure",
        )
    ]
