"""What a row asks of the model, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.generation.tree import TokenTree, grow_trees

#: Tokens of an answer where neither options, nor model, nor training ask for more.
DEFAULT_NEW_TOKENS = 128


def default_budget(longest: int) -> int:
    """Tokens that an answer may have where nothing sets a limit.

    Args:
        longest: Tokens of the longest answer in training, its end token included; 0 where that isn't known.
    """
    return max(DEFAULT_NEW_TOKENS, longest + longest // 2)


@dataclass(frozen=True, eq=False)
class Choices:
    """The answers among which a row's answer is chosen; rows with the same ones share the object.

    Attributes:
        texts: The answers.
        tokens: The ids of each, the token that ends it included.
    """

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]

    @cached_property
    def trees(self) -> list[TokenTree]:
        """The tokens with shared beginnings put together, as the model reads them."""
        return grow_trees(self.tokens)


@dataclass(frozen=True)
class Prompt:
    """What a row asks.

    Attributes:
        input_ids: int64 [tokens], with a placeholder for each audio token.
        waveform: float32 [samples], 16 kHz.
        budget: Tokens that the answer may have, its end token included.
        key: Tells the row's random numbers from others'.
        choices: Where the answer has to be one of these.
    """

    input_ids: NDArray[np.int64]
    waveform: NDArray[np.float32]
    budget: int
    key: int = 0
    choices: Choices | None = None


@dataclass
class Answer:
    """What came out.

    Attributes:
        tokens: Ids, without the token that ended the answer.
        finished: False where the budget ended it.
        logprobs: Natural logarithms of the probabilities that the model gave to the tokens, and to the token
            that ended the answer, where one did: as the model says them, before temperature, penalties and
            whatever else changes them. ``None`` where nobody asked for them.
        others: What a beam search has found beside this answer, in order: by their probabilities where these
            are known, else as the search weighs them.
        ranked: Where the answer was chosen: each choice's place among the choices, and its probability among
            them, the likeliest first. The answer is the first of them.
    """

    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    logprobs: list[float] | None = None
    others: list[Answer] = field(default_factory=list)
    ranked: list[tuple[int, float]] | None = None

    @property
    def logprob(self) -> float | None:
        """The logarithm of the answer's probability: the sum; ``None`` where no token has one."""
        return float(np.sum(self.logprobs)) if self.logprobs else None


def likeliest_first(answers: Sequence[Answer]) -> list[Answer]:
    """Answers by their probabilities, the most probable first; last those that have none.

    A beam search weighs length, so that its own order is another one.
    """
    return sorted(answers, key=lambda answer: math.inf if answer.logprob is None else -answer.logprob)


def ranked_choices(logprobs: Sequence[float]) -> list[tuple[int, float]]:
    """Places and probabilities of choices among each other, the likeliest first, the first of equal ones.

    Args:
        logprobs: The logarithm of each choice's probability.
    """
    sums = np.asarray(logprobs, dtype=np.float64)
    weights = np.exp(sums - sums.max())
    shares = weights / weights.sum()
    return [(int(place), float(shares[place])) for place in np.argsort(-sums, kind="stable")]
