"""How tokens are chosen: settings by transformers' names, and what of them is in force."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transformers import GenerationConfig

from mdl_toolkit.compat.transformers_generation import default_parameters
from mdl_toolkit.generation.processors import no_library_warnings

#: Settings that act in sampling only.
SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
#: Settings that act in beam search only.
BEAMS = ("length_penalty", "early_stopping")
#: Settings that limit an answer's length: each row has a budget of its own instead.
LENGTHS = ("max_new_tokens", "max_length")


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen.

    Attributes:
        options: Settings by transformers' names; transformers' ``generate`` has defaults for the others.
        seed: The seed of sampling.
        stop: Transformers' criterion that ends an answer at a text (``stop_strings``).
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 42
    stop: Callable[..., Any] | None = None

    def generation_config(self) -> Any:
        """A ``GenerationConfig`` of its own, transformers' defaults filled in."""
        return copy.deepcopy(self._generation_config)

    @cached_property
    def _generation_config(self) -> Any:
        with no_library_warnings():
            made = GenerationConfig(**self.options)
        for name, value in default_parameters().items():
            if getattr(made, name, None) is None:
                setattr(made, name, value)
        return made

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return bool(self.options.get("do_sample"))

    @property
    def beams(self) -> int:
        """Beams of a beam search; 1 without one."""
        return self.options.get("num_beams") or 1

    @property
    def returned(self) -> int:
        """Answers to each prompt that a beam search gives."""
        return self.options.get("num_return_sequences") or 1


def in_force(decoding: Decoding) -> dict[str, Any]:
    """The settings that differ from plain greedy decoding, by transformers' names."""
    passed_over = {
        *LENGTHS,
        *(() if decoding.samples else SAMPLING),
        *(() if decoding.beams > 1 else BEAMS),
    }
    plain = default_parameters()
    found = {
        name: value
        for name, value in decoding.options.items()
        if name not in passed_over and value != plain.get(name)
    }
    if decoding.samples:
        made = decoding.generation_config()
        found |= {name: getattr(made, name) for name in ("temperature", "top_k", "top_p")}
    return found


def shown_value(value: Any) -> str:
    """A setting's value for people, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
