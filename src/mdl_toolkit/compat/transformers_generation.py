"""Transformers' logits processors and defaults of generation, without its loop around them.

Dimensions: B rows, T tokens of a row.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel


class _Maker(GenerationMixin):  # type: ignore[misc]
    """What transformers' maker of processors needs of a model."""

    def __init__(self, config: Any) -> None:
        self.config = config


class _Prompted(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """What transformers' ``generate`` needs of a model before it computes anything."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> None:
        """Never called."""

    @property
    def device(self) -> torch.device:
        """Where the prompts are made."""
        return torch.device("cpu")


def logits_processors(
    settings: Any, model_config: Any, ends: Sequence[int], prompt: int, device: torch.device
) -> list[Any]:
    """The processors that transformers' ``generate`` would use for one row alone, in its order.

    ``GenerationMixin._get_logits_processor`` makes them in 0.1 ms. The public way is :func:`_prepared`,
    ``generate`` with a ``custom_generate`` in place of its loop: the same processors in 3.5 ms for each row,
    a tenth of the time that a GPU needs for one. It is the fall-back.

    Args:
        settings: A ``GenerationConfig`` with ``max_length`` and its defaults filled in; it is changed.
        model_config: The model's configuration.
        ends: Tokens that end an answer.
        prompt: Tokens of the row's prompt.
        device: The device of the logits.
    """
    make = getattr(_Maker(model_config), "_get_logits_processor", None)
    if make is not None:
        settings._eos_token_tensor = torch.tensor(list(ends), device=device) if ends else None  # noqa: SLF001
        try:
            return list(make(settings, prompt, device=str(device)))
        except (AttributeError, TypeError) as error:
            if not _is_of_the_call(error):
                raise
    settings.eos_token_id = list(ends) or None
    settings.pad_token_id = ends[0] if ends else 0
    made: list[Any] = list(_prepared(settings, model_config, prompt, device)[0])
    return made


def _is_of_the_call(error: Exception) -> bool:
    """Whether an error says that transformers' maker takes other arguments, not that a setting is wrong."""
    return "_get_logits_processor" in str(error) or "has no attribute '_" in str(error)


@functools.cache
def default_parameters() -> dict[str, Any]:
    """What ``generate`` takes for settings that nobody gave, by their names.

    By the public way of :func:`_prepared`: no public name has them. ``max_length`` and special tokens depend
    on a prompt and a model and are left out.
    """
    _, settings = _prepared(GenerationConfig(max_length=2), PreTrainedConfig(), 1, torch.device("cpu"))
    given = vars(GenerationConfig())
    left_out = {
        "max_length", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache", "transformers_version",
    }  # fmt: skip
    return {
        name: value
        for name, value in vars(settings).items()
        if not name.startswith("_") and name not in left_out and value is not None and given.get(name) is None
    }


def _prepared(settings: Any, model_config: Any, prompt: int, device: torch.device) -> tuple[Any, Any]:
    """The processors and the settings that ``generate`` would begin its loop with."""

    def instead_of_the_loop(*_arguments: Any, **named: Any) -> tuple[Any, Any]:
        return named["logits_processor"], named["generation_config"]

    settings = copy.deepcopy(settings)
    settings.use_cache = False  # no cache has to be made
    ids = torch.ones((1, prompt), dtype=torch.long, device=device)
    model = _Prompted(copy.deepcopy(model_config))
    found: tuple[Any, Any] = model.generate(
        input_ids=ids, attention_mask=ids, generation_config=settings, custom_generate=instead_of_the_loop
    )
    return found
