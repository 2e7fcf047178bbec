"""The order of the work: an epoch's stream of clips, cut into steps, each split evenly over all processes.

The stream depends on the seed and the epoch alone, and a step takes the next clips of it, as many as all
processes and accumulation steps hold together. So the same clips make the same step however they are divided,
and a run resumes at the same clip of the same stream with another number of processes.

How a step is split over ranks: :meth:`Plan.split` divides its clips into one micro-batch for each rank and
accumulation step, all with about the same work (``balance.py``). ``Step.micro`` has them in order of rank.

Clips are drawn by length, so that each step has its share of short and of long ones. Nothing is padded, so
clips of one length gain no speed by being together; but they tend to be of one kind, so a step of
them represents the data badly, and a step of the longest needs the most memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mdl_toolkit.data.batching.balance import (
    Costs,
    clip_work,
    fill_by_tokens,
    split_by_count,
    split_by_tokens,
)
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import AudioGeometry

Ints = NDArray[np.int64]

#: The number of neighbouring clips among which lengths are spread, a power of two.
POOL = 256
#: The share of the token budget that a step is filled to. The rest is room for splitting its clips over
#: micro-batches of at most ``max_tokens``: clips that are no longer than that rest always fit.
FILL = 0.95


class Step:
    """One optimizer step: which clips, and which of them each micro-batch has.

    Attributes:
        first_sample: The position of its first clip in the epoch's stream.
        samples: int64; the clips' indices, in the order of the stream.
        supervised: The number of supervised tokens of all of them.
    """

    def __init__(
        self, first_sample: int, samples: Ints, supervised: int, split: Callable[[Ints], list[list[int]]]
    ) -> None:
        self.first_sample = first_sample
        self.samples = samples
        self.supervised = supervised
        self._split = split

    @cached_property
    def micro(self) -> list[list[int]]:
        """Indices of the clips of each micro-batch, balanced by work; a micro-batch can be empty.

        Number ``rank * accumulation + i`` is the i-th micro-batch of a rank in this step.
        """
        return self._split(self.samples)

    @property
    def next_sample(self) -> int:
        """Position in the epoch's stream after this step, where a run resumes."""
        return self.first_sample + len(self.samples)


class Epoch(Sequence[Step]):
    """The steps of an epoch; each is made when it is asked for."""

    def __init__(self, plan: Plan, stream: Ints, cuts: Ints) -> None:
        self._plan, self._stream, self._cuts = plan, stream, cuts

    def __len__(self) -> int:
        return len(self._cuts) - 1

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start, stop = int(self._cuts[index]), int(self._cuts[index + 1])
        samples = self._stream[start:stop]
        return Step(start, samples, int(self._plan.supervised[samples].sum()), self._plan.split)

    def __iter__(self) -> Iterator[Step]:
        return (self[i] for i in range(len(self)))


class Plan:
    """The order of a dataset's clips over all epochs.

    Args:
        tokens: The number of decoder tokens of each clip's row, [rows].
        samples: The number of samples of each clip, [rows].
        supervised: The number of supervised tokens of each row, [rows].
        seed: The seed of the order.
        micro_batches: The number of micro-batches of a step: world size × accumulation steps.
        batch_size: The number of clips of a micro-batch; either this or ``max_tokens`` is given.
        max_tokens: The number of decoder tokens that a micro-batch has at most.
        geometry: The audio's geometry, by which patches are counted.
        costs: The costs by which the work of a clip is counted.
        shuffle: False for evaluation: one order for every epoch, by length.

    Raises:
        DataError: There are no rows, or a row alone has more than ``max_tokens``.
    """

    def __init__(  # noqa: PLR0913 -- all that an order depends on, by name
        self,
        tokens: ArrayLike,
        samples: ArrayLike,
        supervised: ArrayLike,
        *,
        seed: int,
        micro_batches: int,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        geometry: AudioGeometry | None = None,
        costs: Costs | None = None,
        shuffle: bool = True,
    ) -> None:
        assert (batch_size is None) != (max_tokens is None), "one of batch_size and max_tokens"
        assert micro_batches >= 1 and (batch_size or max_tokens or 0) >= 1
        self.tokens: Ints = np.asarray(tokens, dtype=np.int64)
        self.samples: Ints = np.asarray(samples, dtype=np.int64)
        self.supervised: Ints = np.asarray(supervised, dtype=np.int64)
        self.seed, self.micro_batches = seed, micro_batches
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self._shuffle = shuffle
        if not len(self.tokens):
            raise DataError("no rows to train on")
        if max_tokens is not None and (longest := int(self.tokens.max())) > max_tokens:
            raise DataError(
                f"--max-tokens {max_tokens}: row {int(self.tokens.argmax()) + 1} of the dataset has "
                f"{longest} tokens; give at least {longest}"
            )
        self.work = clip_work(
            self.tokens, self.samples, self.supervised, geometry or AudioGeometry(), costs or Costs()
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def stream(self, epoch: int) -> Ints:
        """All indices in the order of an epoch, int64 [rows]. Depends on the seed and the epoch alone."""
        rows = len(self.tokens)
        if not self._shuffle:
            return np.lexsort((self.samples, self.tokens))[::-1].astype(np.int64)
        order = _shuffled(rows, self.seed, 2 * epoch)
        pool = np.arange(rows) // POOL
        order = order[np.lexsort((self.samples[order], self.tokens[order], pool))]
        return order[np.lexsort((_interleaved(rows, self.seed, 2 * epoch + 1), pool))]

    def epoch(self, epoch: int, first_sample: int = 0) -> Epoch:
        """The steps of an epoch.

        Args:
            epoch: Counted from 0.
            first_sample: Position in the stream to begin at, for a run that is resumed there.
        """
        stream = self.stream(epoch)
        return Epoch(self, stream, self._cuts(stream, first_sample))

    def split(self, samples: Ints) -> list[list[int]]:
        """Divide a step's clips over the micro-batches, so that each has the same work."""
        if self.batch_size is not None:
            return split_by_count(samples, self.work[samples], self.micro_batches)
        assert self.max_tokens is not None
        split = split_by_tokens(
            samples, self.work[samples], self.tokens[samples], self.micro_batches, self.max_tokens
        )
        assert split is not None, "a step is only cut where it can be split"
        return split

    def _cuts(self, stream: Ints, first: int) -> Ints:
        """Positions of the stream where steps begin, and its end."""
        rows = len(stream)
        if self.batch_size is not None:
            size = self.batch_size * self.micro_batches
            return np.append(np.arange(first, rows, size), rows).astype(np.int64)
        assert self.max_tokens is not None
        tokens = self.tokens[stream]
        ends = np.cumsum(tokens)
        # An integer: a float would make searchsorted convert all of ``ends`` at every step.
        budget = int(self.max_tokens * self.micro_batches * FILL)
        cuts = [first]
        while cuts[-1] < rows:
            start = cuts[-1]
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
            while not self._fits(stream[start:stop], tokens[start:stop]):
                stop -= 1
            cuts.append(stop)
        return np.array(cuts, dtype=np.int64)

    def _fits(self, samples: Ints, tokens: Ints) -> bool:
        """Whether these clips can be split over the micro-batches within ``max_tokens``."""
        assert self.max_tokens is not None
        work = self.work[samples]
        order = np.argsort(-work, kind="stable")
        need = tokens[order]
        placed = np.cumsum(need) - need
        # Where a clip finds no room, each micro-batch holds more than max_tokens less its length: as long as
        # fewer tokens are placed, there is room, and nothing has to be tried.
        if np.all(placed <= self.micro_batches * (self.max_tokens - need)):
            return True
        return fill_by_tokens(work, tokens, self.micro_batches, self.max_tokens) is not None


def _shuffled(count: int, seed: int, stream: int) -> Ints:
    """A permutation that stays the same with every version of numpy: sorted raw numbers."""
    return np.argsort(_draws(count, seed, stream), kind="stable").astype(np.int64)


def _draws(count: int, seed: int, stream: int) -> NDArray[np.uint64]:
    """Raw numbers of Philox: those of a seed and stream stay the same with every version of numpy."""
    key = np.array([seed % 2**64, stream], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def _interleaved(rows: int, seed: int, stream: int) -> Ints:
    """Where in its pool each clip goes, of clips that are sorted by length within pools, [rows].

    Long and short halves take turns, so do the quarters within each, and so on: any few neighbours then have
    lengths from all over the pool. Which part begins is drawn for each, so that the order is a random one
    (Owen 1995, "Randomly permuted (t,m,s)-nets": a scrambled van der Corput sequence).
    """
    pools = -(-rows // POOL)
    draws = _draws(pools * POOL // 64, seed, stream).astype("<u8")
    swap = np.unpackbits(draws.view(np.uint8)).reshape(pools, POOL)
    pool, place = np.divmod(np.arange(rows), POOL)
    last = rows - (pools - 1) * POOL
    place[(pools - 1) * POOL :] = np.arange(last) * POOL // last
    levels = POOL.bit_length() - 1
    goes = np.zeros(rows, dtype=np.int64)
    for level in range(levels):
        part = place >> (levels - level)
        half = place >> (levels - level - 1) & 1
        goes |= (half ^ swap[pool, (1 << level) + part]) << level
    return goes
