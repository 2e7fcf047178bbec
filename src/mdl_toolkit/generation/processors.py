"""Transformers' logits processors, on rows of different lengths: each row as if it were alone.

Dimensions: B rows, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils import logging

from mdl_toolkit.compat.transformers_generation import logits_processors

#: Those that look at the logits alone; they take all rows at once.
_WITHOUT_HISTORY = tuple(
    getattr(transformers, name)
    for name in (
        "TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper",
        "TopHLogitsWarper", "TypicalLogitsWarper", "EpsilonLogitsWarper", "EtaLogitsWarper",
        "SuppressTokensLogitsProcessor", "InfNanRemoveLogitsProcessor", "LogitNormalization",
    )
    if hasattr(transformers, name)
)  # fmt: skip


def make_processors(
    settings: Any, model_config: Any, ends: Sequence[int], prompt: int, budget: int, device: torch.device
) -> list[Any]:
    """The processors that transformers' ``generate`` would use for one row alone, in its order.

    Args:
        settings: Transformers' ``GenerationConfig``, its defaults filled in; it is changed.
        model_config: The model's configuration.
        ends: Tokens that end an answer.
        prompt: Tokens of the row's prompt.
        budget: Tokens that its answer may have.
        device: The device of the logits.
    """
    settings.max_length = prompt + budget
    if settings.min_new_tokens is not None:
        settings.min_length = prompt + settings.min_new_tokens
    return logits_processors(settings, model_config, ends, prompt, device)


def process(
    logits: Tensor, processors: Sequence[Sequence[Any]], tokens: Sequence[NDArray[np.int64]]
) -> Tensor:
    """Let each row's processors change its logits.

    Args:
        logits: [B, V].
        processors: Each row's processors; the same kinds in the same order.
        tokens: Each row's prompt and answer so far.

    Returns:
        [B, V].
    """
    histories: Tensor | None = None
    for place, first in enumerate(processors[0]):
        if isinstance(first, _WITHOUT_HISTORY):
            logits = first(None, logits)
            continue
        histories = _histories(tokens, logits.device) if histories is None else histories
        if type(first) is transformers.RepetitionPenaltyLogitsProcessor:
            # It asks which tokens there are: those that rows are filled up with are there anyway.
            logits = first(histories, logits)
            continue
        width = histories.shape[1]
        logits = torch.cat([
            row[place](histories[number : number + 1, width - len(ids) :], logits[number : number + 1])
            for number, (row, ids) in enumerate(zip(processors, tokens, strict=True))
        ])  # fmt: skip
    return logits


def without_history(processors: Sequence[Any]) -> bool:
    """Whether neither a row's tokens nor their number matter to its processors."""
    return all(isinstance(processor, _WITHOUT_HISTORY) for processor in processors)


def _histories(tokens: Sequence[NDArray[np.int64]], device: torch.device) -> Tensor:
    """Tokens of rows, [B, longest], each filled up in front with its own first one."""
    longest = max(map(len, tokens))
    filled = np.empty((len(tokens), longest), dtype=np.int64)
    for row, ids in enumerate(tokens):
        filled[row, : longest - len(ids)] = ids[0]
        filled[row, longest - len(ids) :] = ids
    return torch.from_numpy(filled).to(device)


@contextmanager
def no_library_warnings() -> Iterator[None]:
    """Keep transformers from warning of what is warned of here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
