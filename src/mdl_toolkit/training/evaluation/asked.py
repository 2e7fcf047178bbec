"""What is asked of the model in an evaluation: which rows, by which prompts, for answers of what length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mdl_toolkit.errors import DataError
from mdl_toolkit.generation.answer import Prompt, default_budget

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.generation.config_file import GenerationFile

#: The seed by which rows are chosen: the same for all runs, so that their scores are of the same rows.
_CHOICE_SEED = 20240229
#: Tokens of prompts and answers that are kept at a time, unless one row has more.
GROUP_TOKENS = 32768


def chosen_rows(data: ClipDataset, count: int) -> list[int]:
    """The rows that are answered, in the order of the data.

    Args:
        data: The evaluation data.
        count: How many, taken from the front of one shuffled order, so that a larger number has all rows of
            a smaller one. 0: all rows.
    """
    there = np.flatnonzero(data.supervised > 0)
    if count:
        shuffled = np.random.Generator(np.random.PCG64(_CHOICE_SEED)).permutation(len(data))
        there = shuffled[np.isin(shuffled, there)][:count]
    return sorted(map(int, there))


def groups_of(
    data: ClipDataset, rows: Sequence[int], slots: int, budget: AnswerBudget
) -> list[tuple[int, ...]]:
    """Divide rows into groups that are answered together, the same for any number of processes.

    Rows of a group have right answers of like length, so that they end at about the same time. The longest
    come first.

    Args:
        data: The evaluation data.
        rows: The rows to answer.
        slots: The number of rows of a group.
        budget: The limit of answers.
    """
    order = sorted(rows, key=lambda row: (-int(data.supervised[row]), -int(data.tokens[row]), row))
    groups: list[tuple[int, ...]] = []
    current: list[int] = []
    used = 0
    for row in order:
        prompt = int(data.tokens[row] - data.supervised[row])
        tokens = prompt + budget.limit
        if current and (len(current) == slots or used + tokens > GROUP_TOKENS):
            groups.append(tuple(current))
            current, used = [], 0
        current.append(row)
        used += tokens
    return [*groups, tuple(current)] if current else groups


@dataclass(frozen=True)
class AnswerBudget:
    """How long answers may be: as the option says, else as ``inference`` limits those of the trained model.

    Attributes:
        limit: Tokens of an answer, its end included.
        context: Tokens that the model reads at most; ``None`` where that isn't known.
    """

    limit: int
    context: int | None = None

    @classmethod
    def of(cls, option: int | None, file: GenerationFile, longest: int, context: int | None) -> AnswerBudget:
        """Choose the limit.

        Args:
            option: ``--eval-max-new-tokens``.
            file: The generation settings of the base. A limit there that would cut what is learned doesn't
                count.
            longest: Tokens of the longest answer in the training data.
            context: Tokens that the model reads at most.
        """
        said = file.limit("max_new_tokens")
        by_model = said if said is not None and said >= longest else None
        return cls(option or by_model or default_budget(longest), context)

    def of_prompt(self, tokens: int) -> int:
        """The limit of the answer to a prompt of so many tokens; 0 where there is no room for one."""
        return self.limit if self.context is None else max(0, min(self.limit, self.context - tokens))


@dataclass(frozen=True)
class Asked:
    """A row to answer.

    Attributes:
        index: Its place in the data.
        prompt: What is asked.
        reference: The ids of the right answer, with the token that ends it.
    """

    index: int
    prompt: Prompt
    reference: list[int]


def asked_of(batch: PackedBatch, budget: AnswerBudget) -> list[Asked]:
    """The rows of a micro-batch as questions: what stands before the first supervised token is the prompt.

    Args:
        batch: The micro-batch, wherever it is.
        budget: The limit of answers.

    Returns:
        The questions. One whose prompt leaves no room for an answer has a budget of 0.

    Raises:
        DataError: A row has no answer.
    """
    host = batch.to("cpu")
    ids, waveform = host.input_ids.numpy(), host.waveform.numpy()
    places = host.target_positions.numpy() + 1
    ends, sounds = np.cumsum(host.sequence_lengths), np.cumsum(host.audio_samples)
    found = []
    for row, (end, sound) in enumerate(zip(ends.tolist(), sounds.tolist(), strict=True)):
        start = end - host.sequence_lengths[row]
        learned = places[(places >= start) & (places < end)]
        if not len(learned):
            raise DataError(f"{host.rows[row]}: no answer to compare with")
        first = int(learned[0])
        answer = learned[learned - first == np.arange(len(learned))]  # of several turns the first one
        prompt = Prompt(
            ids[start:first].copy(),
            waveform[sound - host.audio_samples[row] : sound].copy(),
            budget.of_prompt(first - start),
            key=host.indices[row],
        )
        found.append(Asked(host.indices[row], prompt, ids[answer].tolist()))
    return found


#: Makes the text of an answer's tokens, special tokens left out.
Decode = Callable[[list[int]], str]
