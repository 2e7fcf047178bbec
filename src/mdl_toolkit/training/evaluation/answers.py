"""Answers to the rows of a set of evaluation data, made on all processes and gathered.

Which rows run together is the same for any number of processes, so that the answers are, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mdl_toolkit.generation.decoding import Decoding
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.memory import free_memory, is_out_of_memory
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.progress import Progress
from mdl_toolkit.training.batches.loader import WaitEnded
from mdl_toolkit.training.batches.synchronized import NoBatch, SynchronizedBatches
from mdl_toolkit.training.evaluation.asked import AnswerBudget, Asked, Decode, asked_of, groups_of
from mdl_toolkit.training.evaluation.loss import share_of
from mdl_toolkit.training.evaluation.passes import CalledOff, FreePasses, LockstepPasses
from mdl_toolkit.training.evaluation.sets import Load
from mdl_toolkit.training.evaluation.together import agree, is_interrupted
from mdl_toolkit.training.signals import StopSignals
from mdl_toolkit.training.trainable.wrap import Sharded, Wrapped

if TYPE_CHECKING:
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.errors import MdlError

logger = get_logger(__name__)


@dataclass(frozen=True)
class AnsweredRow:
    """A row and what the model made of it.

    Attributes:
        index: Its place in the data.
        reference: The right answer.
        prediction: The model's; ``None`` where it has none.
        prompt: The text of what was asked.
        error: Why it has none; empty where it has one.
        cut: Whether the limit ended it.
    """

    index: int
    reference: str
    prediction: str | None
    prompt: str = ""
    error: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Answering:
    """How answers are made.

    Attributes:
        ends: Tokens that end an answer.
        decoding: How tokens are chosen.
        budget: How long answers may be.
        decode: Makes the text of tokens.
        slots: Rows that run together.
        compiled: Whether the model's blocks are compiled. Answers are made without that: their tensors have
            ever new shapes, for which blocks would be compiled anew.
    """

    ends: Sequence[int]
    decoding: Decoding
    budget: AnswerBudget
    decode: Decode
    slots: int
    compiled: bool = False


class AnswersOfSet:
    """Answers rows of a dataset.

    Args:
        data: The evaluation data.
        load: Turns tuples of rows into micro-batches, in order.
        ranks: The processes of the run.
        rows: The rows to answer, one at least.
        how: How answers are made.

    Attributes:
        decode: Makes the text of tokens.
        count: The number of rows to answer.
    """

    def __init__(
        self, data: ClipDataset, load: Load, ranks: Ranks, rows: Sequence[int], how: Answering
    ) -> None:
        self._load, self._ranks, self._how = load, ranks, how
        self.decode, self.count = how.decode, len(rows)
        self._slots = how.slots
        groups = groups_of(data, rows, how.slots, how.budget)
        self._own = share_of(groups, ranks.rank, ranks.world_size)
        self._rounds = -(-len(groups) // ranks.world_size)

    def __call__(self, wrapped: Wrapped, signals: StopSignals | None = None) -> list[AnsweredRow]:
        """Answer all rows; every process calls this, and all get all answers, in the order of the data.

        Args:
            wrapped: The model, in evaluation mode.
            signals: The signals that ask the run to stop. One that comes to any process ends the evaluation
                on all of them, at their next token.

        Raises:
            EvaluationDropped: Such a signal came.
            NoBatch: A process has no further batch.
        """
        passes = (
            LockstepPasses(self._ranks, signals, wrapped)
            if isinstance(wrapped, Sharded)
            else FreePasses(self._ranks, signals)
        )
        generator = Generator(wrapped.model, self._how.ends, self._how.decoding, passes=passes)
        stance: Any = torch.compiler.set_stance("force_eager") if self._how.compiled else nullcontext()
        with closing(passes), torch.no_grad(), wrapped.autocast(), stance:
            found, cause = self._answers(generator, passes, signals)
        agree(self._ranks, signals, cause, 0.0, done=True)
        everyones: list[list[AnsweredRow]] = self._ranks.gather_objects(found)
        return sorted((row for rows in everyones for row in rows), key=lambda row: row.index)

    def _answers(
        self, generator: Generator, passes: FreePasses, signals: StopSignals | None
    ) -> tuple[list[AnsweredRow], MdlError | None]:
        """The answers of this process's groups, and why it has no more of them, if so."""
        found: list[AnsweredRow] = []
        cause: MdlError | None = None
        progress = Progress("answering", sum(map(len, self._own)), every=60.0)
        with closing(self._load(self._own, partial(is_interrupted, self._ranks, signals))) as loading:
            try:
                batches = SynchronizedBatches(loading, self._ranks)
            except NoBatch as missing:
                agree(self._ranks, signals, missing.cause, done=True)  # it may be for a signal
                raise
            for number in range(self._rounds):
                agree(self._ranks, signals, cause, done=True)
                asked: list[Asked] = []
                if number < len(self._own):
                    batch = batches.take()
                    cause = batches.cause
                    if cause is None:
                        asked = asked_of(batch, self._how.budget)
                try:
                    found += self._group(generator, passes, asked, progress)
                except CalledOff:
                    cause = cause or WaitEnded("answers were being made when a signal asked to stop")
        progress.clear()
        return found, cause

    def _group(
        self, generator: Generator, passes: FreePasses, asked: Sequence[Asked], progress: Progress
    ) -> list[AnsweredRow]:
        """Answer the rows of one group. Where those that run together need too much memory, fewer do."""
        pending = dict(enumerate(asked))
        found: list[AnsweredRow] = []

        def note(place: int, prediction: str | None, error: str = "", cut: bool = False) -> None:
            row = pending.pop(place)
            reference, prompt = (self.decode(ids) for ids in (row.reference, row.prompt.input_ids.tolist()))
            found.append(AnsweredRow(row.index, reference, prediction, prompt, error, cut))
            progress.update()

        for place, row in list(pending.items()):
            if not row.prompt.budget:
                note(place, None, f"its {len(row.prompt.input_ids)} tokens leave no room for an answer")
        while pending:
            places = list(pending)
            prompts = [pending[place].prompt for place in places]
            try:
                for number, answer in generator.stream(prompts, self._slots):
                    text = self.decode(answer.tokens).replace("\0", "\ufffd")
                    note(places[number], text, cut=not answer.finished)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                short = True
            else:
                short = False
            if short:  # out of the handler, in which what the failed pass had made would be kept
                free_memory()
                if self._slots == 1:
                    tokens = len(prompts[0].input_ids)
                    note(places[0], None, f"not enough memory for its {tokens} tokens alone")
                else:
                    self._slots //= 2
                    rows = f"{self._slots} rows at a time" if self._slots > 1 else "one row at a time"
                    said = f"{self._ranks.prefix}memory ran out while answers were made; from now on {rows}"
                    logger.info(said, extra=EVERYWHERE)
        passes.finish()
        return found
