"""How rows asked their questions, as the manifests of datasets and of models keep it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: Orders of the clip and the text within the user's turn.
ORDERS = ("audio-first", "text-first")
#: Pairs of prompts that a record lists.
MAX_SEEN = 20


@dataclass(frozen=True)
class PromptUse:
    """A pair of prompts that rows had, and how many rows had it."""

    system_prompt: str | None = None
    user_prompt: str | None = None
    rows: int = 0


@dataclass(frozen=True)
class PromptRecord:
    """How the rows of a dataset ask, and so how a model was asked in training.

    Attributes:
        order: ``audio-first`` or ``text-first``, within the user's turn.
        system_prompt: The system prompt given to rows without one of their own (``--system-prompt``).
        user_prompt: The user prompt given to rows without one of their own (``--user-prompt``).
        seen: The pairs of prompts that rows had, the most frequent first; :data:`MAX_SEEN` at most.
        complete: Whether ``seen`` lists all pairs that there were.
    """

    order: str = "audio-first"
    system_prompt: str | None = None
    user_prompt: str | None = None
    seen: tuple[PromptUse, ...] = ()
    complete: bool = True

    def default_for(self, name: Literal["system_prompt", "user_prompt"]) -> str | None:
        """The prompt for a row that has none: the option of training, or the one that all its rows had."""
        value: str | None = getattr(self, name)
        if value is not None or not self.complete:
            return value
        had = {getattr(use, name) for use in self.seen}
        return had.pop() if len(had) == 1 else None

    @classmethod
    def joined(cls, records: Sequence[PromptRecord]) -> PromptRecord:
        """The record of several datasets used as one."""
        first = records[0]
        seen = Counter[tuple[str | None, str | None]]()
        for record in records:
            for use in record.seen:
                seen[use.system_prompt, use.user_prompt] += use.rows
        one_order = all(record.order == first.order for record in records)
        system = {record.system_prompt for record in records}
        user = {record.user_prompt for record in records}
        return cls(
            order=first.order,
            system_prompt=first.system_prompt if len(system) == 1 else None,
            user_prompt=first.user_prompt if len(user) == 1 else None,
            seen=most_frequent(seen),
            complete=one_order and len(seen) <= MAX_SEEN and all(record.complete for record in records),
        )


def most_frequent(counted: Counter[tuple[str | None, str | None]]) -> tuple[PromptUse, ...]:
    """The most frequent pairs of prompts of a count of rows by pair, as a record lists them."""
    return tuple(PromptUse(*prompts, rows) for prompts, rows in counted.most_common(MAX_SEEN))
