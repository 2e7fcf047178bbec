"""A loaded model asked: what it answers greedily, and what it thinks of the reference's answer.

Dimensions: T tokens of an answer, its end token included; K of the likeliest tokens; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdl_toolkit.generation.answer import Answer, Prompt
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.generation.padded import padded_inputs
from mdl_toolkit.model.midashenglm import MiDashengLMModel
from mdl_toolkit.verify.asked import Questions
from mdl_toolkit.verify.traces import ALTERNATIVES, FormAnswer, Trace


def make_reference(model: MiDashengLMModel, questions: Questions) -> list[Trace]:
    """Answer all rows one at a time, and keep what was likeliest at each token."""
    generator = Generator(model, questions.ends)
    traces = []
    for prompt in questions.prompts:
        tokens = _with_end(generator([prompt])[0], prompt, generator, questions)
        [logprobs] = _packed_logprobs(model, [prompt], [tokens])
        # The token that was taken comes first, also where another is as likely to the last bit.
        taken = torch.tensor(tokens, device=logprobs.device)[:, None]
        ids = (
            logprobs.scatter(-1, taken, torch.inf).topk(min(ALTERNATIVES, logprobs.shape[-1]), dim=-1).indices
        )
        values = logprobs.gather(-1, ids).double()
        traces.append(Trace(tokens, ids.cpu().numpy(), values.cpu().numpy()))
    return traces


def ask_packed(
    model: MiDashengLMModel, questions: Questions, reference: Sequence[Trace], together: int
) -> list[FormAnswer]:
    """Answer all rows, so many at a time, with the packed generator.

    Args:
        model: In evaluation mode.
        questions: What it is asked.
        reference: The reference's answers.
        together: Rows that are read, and answered, together.
    """
    generator = Generator(model, questions.ends)
    found = []
    for first in range(0, len(reference), together):
        prompts, traces = questions.prompts[first : first + together], reference[first : first + together]
        answers = generator(prompts)
        every = _packed_logprobs(model, prompts, [trace.tokens for trace in traces])
        for prompt, trace, answer, logprobs in zip(prompts, traces, answers, every, strict=True):
            tokens = _with_end(answer, prompt, generator, questions)
            found.append(FormAnswer(tokens, _picked(logprobs, trace)))
    return found


def ask_padded(
    model: Any, questions: Questions, reference: Sequence[Trace], together: int
) -> list[FormAnswer]:
    """Answer all rows by transformers' ``generate`` and the padded forward of any class of the model.

    Args:
        model: A model with the published signature, in evaluation mode.
        questions: What it is asked.
        reference: The reference's answers.
        together: Rows of a batch.
    """
    found = []
    for first in range(0, len(reference), together):
        prompts, traces = questions.prompts[first : first + together], reference[first : first + together]
        answers = _generated(model, prompts, questions.ends)
        every = _padded_logprobs(model, prompts, [trace.tokens for trace in traces])
        for trace, tokens, logprobs in zip(traces, answers, every, strict=True):
            found.append(FormAnswer(tokens, _picked(logprobs, trace)))
    return found


def _with_end(answer: Answer, prompt: Prompt, generator: Generator, questions: Questions) -> list[int]:
    """An answer's tokens and the end token that it would take; a cut one has none."""
    if not answer.finished or len(answer.tokens) >= prompt.budget:
        return list(answer.tokens)
    if len(questions.ends) == 1:
        return [*answer.tokens, questions.ends[0]]
    [logprobs] = _packed_logprobs(generator.model, [prompt], [[*answer.tokens, questions.ends[0]]])
    ends = torch.tensor(questions.ends, device=logprobs.device)
    return [*answer.tokens, int(ends[logprobs[-1, ends].argmax()])]


def _picked(logprobs: Tensor, trace: Trace) -> NDArray[np.float64]:
    """What is given to the reference's alternatives, [T, K] of [T, V]."""
    ids = torch.from_numpy(trace.ids).to(logprobs.device)
    picked: NDArray[np.float64] = logprobs.gather(-1, ids).double().cpu().numpy()
    return picked


@torch.inference_mode()
def _packed_logprobs(
    model: MiDashengLMModel, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log-probabilities [T, V] at each token of each answer, from one packed pass over all rows."""
    device = next(model.get_input_embeddings().parameters()).device
    texts = [np.concatenate([p.input_ids, a[:-1]]) for p, a in zip(prompts, answers, strict=True)]
    texts = [text.astype(np.int64) for text in texts]
    lengths = [len(text) for text in texts]
    ids = torch.from_numpy(np.concatenate(texts))
    # The audio token's id in an answer is text: placeholders stand in prompts alone.
    starts = np.cumsum([0, *lengths[:-1]])
    placeholders = np.concatenate(
        [
            start + np.flatnonzero(p.input_ids == model.config.audio_token_id)
            for start, p in zip(starts, prompts, strict=True)
        ]
    )
    kept = np.concatenate(
        [
            np.arange(start + len(p.input_ids) - 1, start + length)
            for start, length, p in zip(starts, lengths, prompts, strict=True)
        ]
    )
    states = model.packed_hidden(
        ids.to(device),
        torch.cat([torch.arange(length) for length in lengths]).to(device),
        torch.from_numpy(np.concatenate([p.waveform for p in prompts])).to(device),
        [len(p.waveform) for p in prompts],
        lengths,
        torch.from_numpy(placeholders).to(device),
        keep_rows=torch.from_numpy(kept).to(device),
    )
    head = model.get_output_embeddings()
    parts: Any = torch.split(states, [len(a) for a in answers])
    return [head(part).float().log_softmax(-1)[: len(a)] for part, a in zip(parts, answers, strict=True)]


def _padded(
    prompts: Sequence[Prompt], device: torch.device, texts: Sequence[NDArray[np.int64]]
) -> dict[str, Any]:
    """The published inputs of some rows; other classes than ours want the clips' lengths as a tensor."""
    inputs = padded_inputs(prompts, texts, 0, device)
    return {**inputs, "audio_length": torch.tensor(inputs["audio_length"], device=device)}


@torch.inference_mode()
def _generated(model: Any, prompts: Sequence[Prompt], ends: Sequence[int]) -> list[list[int]]:
    """Greedy answers by transformers' ``generate``, each with its end token where it has one."""
    device = next(model.parameters()).device
    inputs = _padded(prompts, device, [prompt.input_ids for prompt in prompts])
    budget = max(prompt.budget for prompt in prompts)
    output = model.generate(
        **inputs, max_new_tokens=budget, do_sample=False, num_beams=1, repetition_penalty=1.0,
        eos_token_id=list(ends), pad_token_id=min(ends),
    )  # fmt: skip
    before = inputs["input_ids"].shape[1]
    # The publisher's class returns new tokens alone, as transformers does for embeddings.
    width = output.shape[1]
    new = (
        output[:, before:]
        if width > before and bool((output[:, :before] == inputs["input_ids"]).all())
        else output
    )
    return [_cut(row, ends, prompt.budget) for row, prompt in zip(new.tolist(), prompts, strict=True)]


def _cut(tokens: list[int], ends: Sequence[int], budget: int) -> list[int]:
    """An answer up to its end token, within its budget."""
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1][:budget]


@torch.inference_mode()
def _padded_logprobs(model: Any, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> list[Tensor]:
    """Log-probabilities [T, V] at each token of each answer, from one padded pass over all rows."""
    device = next(model.parameters()).device
    texts = [
        np.concatenate([p.input_ids, a[:-1]]).astype(np.int64) for p, a in zip(prompts, answers, strict=True)
    ]
    logits = model(**_padded(prompts, device, texts)).logits
    return [
        row[logits.shape[1] - len(a) :].float().log_softmax(-1)[: len(a)]
        for row, a in zip(logits, answers, strict=True)
    ]
