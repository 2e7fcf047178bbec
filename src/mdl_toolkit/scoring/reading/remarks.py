"""Lines for a person on answers that could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SHOWN = 3
_LENGTH = 60


def unread(kinds: Mapping[str, Sequence[int]], answers: Sequence[str | None]) -> list[str]:
    """A line for each kind of answer, with how many there are and the first ones.

    Args:
        kinds: The places of the answers, by what is said of them: ``name no label``.
        answers: All answers; ``None``: none was given.
    """
    lines = []
    for kind, places in kinds.items():
        if places:
            shown = ", ".join(f"row {place + 1}: {_quoted(answers[place])}" for place in places[:_SHOWN])
            more = ", …" if len(places) > _SHOWN else ""
            lines.append(f"{len(places)} of {len(answers)} answers {kind} ({shown}{more})")
    return lines


def _quoted(answer: str | None) -> str:
    if answer is None:
        return "no answer"
    text = " ".join(answer.split())
    return f'"{text[:_LENGTH]}…"' if len(text) > _LENGTH else f'"{text}"'
