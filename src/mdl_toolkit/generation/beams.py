"""Beam search by transformers; each row gets the answer that it gets alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, StoppingCriteriaList

from mdl_toolkit.generation.answer import Answer, Prompt
from mdl_toolkit.generation.decoding import Decoding
from mdl_toolkit.generation.padded import padded_inputs
from mdl_toolkit.generation.processors import make_processors, no_library_warnings, without_history
from mdl_toolkit.model.midashenglm import MiDashengLMModel


@dataclass
class BeamAnswer:
    """An answer that a beam search has found.

    Attributes:
        answer: The answer.
        said: The tokens that the model has said: those of the answer, and the one by which it has ended it.
    """

    answer: Answer
    said: list[int]


def beam_search(
    model: MiDashengLMModel, ends: Sequence[int], decoding: Decoding, prompts: Sequence[Prompt]
) -> list[list[BeamAnswer]]:
    """Answers to prompts, in their order: to each as many as ``decoding.returned``, the best first.

    Rows run together where they can't touch each other: those of one budget, which is one limit to the
    library; of one length too where its processors would see, or count, what shorter rows are filled up
    with; and where tokens are drawn none, since a row's random numbers are its own.

    Args:
        model: In evaluation mode.
        ends: Tokens that end an answer; one at least.
        decoding: With more than one beam.
        prompts: Each with a budget of at least 1.
    """
    cpu = torch.device("cpu")
    alike = without_history(make_processors(decoding.generation_config(), model.config, ends, 8, 8, cpu))

    def kind(row: int) -> tuple[int, ...]:
        if decoding.samples:
            return (row,)
        prompt = prompts[row]
        plain = alike and decoding.stop is None
        return (prompt.budget,) if plain else (prompt.budget, len(prompt.input_ids))

    groups: dict[tuple[int, ...], list[int]] = {}
    for row in range(len(prompts)):
        groups.setdefault(kind(row), []).append(row)
    answers: dict[int, list[BeamAnswer]] = {}
    for _, rows in sorted(groups.items()):
        found = _search(model, ends, decoding, [prompts[row] for row in rows])
        answers.update(zip(rows, found, strict=True))
    return [answers[row] for row in range(len(prompts))]


def _search(
    model: MiDashengLMModel, ends: Sequence[int], decoding: Decoding, prompts: Sequence[Prompt]
) -> list[list[BeamAnswer]]:
    device = next(model.get_input_embeddings().parameters()).device
    budget, pad = prompts[0].budget, min(ends)
    inputs = padded_inputs(prompts, [prompt.input_ids for prompt in prompts], pad, device)
    longest = inputs["input_ids"].shape[1]
    options = {name: value for name, value in decoding.options.items() if name != "stop_strings"}
    options |= {"max_new_tokens": budget, "eos_token_id": sorted(ends), "pad_token_id": pad}
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.inference_mode(),
        torch.random.fork_rng(cuda, enabled=decoding.samples),
        no_library_warnings(),
    ):
        if decoding.samples:
            torch.manual_seed(_seed(decoding, prompts[0]))
        output = model.generate(
            **inputs,
            generation_config=GenerationConfig(**options),
            stopping_criteria=StoppingCriteriaList([decoding.stop] if decoding.stop else []),
        )
    forced = "forced_eos_token_id" in options
    found = [_answer(row, longest, ends, budget, forced, decoding.stop) for row in output.cpu()]
    return [found[first : first + decoding.returned] for first in range(0, len(found), decoding.returned)]


def _seed(decoding: Decoding, prompt: Prompt) -> int:
    """A row's own."""
    own = np.random.Generator(np.random.Philox(key=(decoding.seed, prompt.key)))
    return int(own.integers(2**63))


def _answer(
    row: torch.Tensor, longest: int, ends: Sequence[int], budget: int, forced: bool, stop: Any
) -> BeamAnswer:
    tokens = row[longest:].tolist()
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    if end is not None:
        stopped = stop is not None and bool(stop(row[None, : longest + end], None)[0])
        by_force = forced and end + 1 == budget
        answer = Answer(tokens[:end], stopped or not by_force)
        return BeamAnswer(answer, tokens[:end] if stopped or by_force else tokens[: end + 1])
    finished = len(tokens) < budget or (stop is not None and bool(stop(row[None], None)[0]))
    return BeamAnswer(Answer(tokens, finished), tokens)
