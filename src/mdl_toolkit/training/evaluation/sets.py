"""The sets of evaluation data of a run, known before torch is imported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_toolkit.data.dataset.dataset import ClipDataset

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.training.batches.loader import MicroBatches

#: Turns tuples of rows into micro-batches; the second argument says when to end waiting for one.
Load = Callable[[Iterable[tuple[int, ...]], Callable[[], bool]], Generator["PackedBatch", None, None]]


@dataclass(frozen=True)
class EvaluationSet:
    """A set of evaluation data.

    Attributes:
        name: The name of the set; ``main`` for data without a name.
        named: Whether somebody gave it that name.
        data: Its rows.
        folders: The folders of the data.
    """

    name: str
    named: bool
    data: ClipDataset
    folders: Sequence[Path]

    @property
    def title(self) -> str:
        """What messages call its data."""
        return f"evaluation ({self.name})" if self.named else "evaluation"


def fingerprint_of(sets: Sequence[EvaluationSet]) -> str | None:
    """A fingerprint of all sets: of a single one its data's, whatever its name; ``None`` without a set."""
    if len(sets) < 2:
        return sets[0].data.fingerprint if sets else None
    text = "\n".join(f"{each.name} {each.data.fingerprint}" for each in sets)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def loaders(sets: Sequence[EvaluationSet], batches: MicroBatches) -> list[Load]:
    """What loads the rows of each set, all by the same data workers.

    Args:
        sets: The sets.
        batches: The micro-batches of all of them, numbered through.
    """
    firsts = [sum(len(each.data) for each in sets[:number]) for number in range(len(sets))]
    return [_loading(batches, first) for first in firsts]


def _loading(batches: MicroBatches, first: int) -> Load:
    """Loads rows of the set whose first row has this number among those of all sets."""

    def load(
        tasks: Iterable[tuple[int, ...]], interrupted: Callable[[], bool]
    ) -> Generator[PackedBatch, None, None]:
        shifted = (tuple(index + first for index in indices) for indices in tasks)
        with closing(batches(shifted, interrupted)) as loading:
            for batch in loading:
                yield replace(batch, indices=tuple(index - first for index in batch.indices))

    return load
