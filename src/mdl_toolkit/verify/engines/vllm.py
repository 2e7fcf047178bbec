"""vLLM, by its offline interface (``vllm.LLM``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.verify.engines.requests import SAMPLE_RATE, collapsed, with_stop
from mdl_toolkit.verify.traces import FormAnswer


def ask(
    folder: Path, prompts: Sequence[Prompt], audio_token: int, ends: Sequence[int], trusted: bool
) -> list[FormAnswer]:
    """Answer prompts greedily.

    Args:
        folder: A stand-alone model.
        prompts: What is asked.
        audio_token: The id of the placeholder, of which the engine wants one a clip.
        ends: Tokens that end an answer.
        trusted: Whether it may run code of the folder.
    """
    from vllm import LLM, SamplingParams

    engine: Any = LLM(model=str(folder), trust_remote_code=trusted, limit_mm_per_prompt={"audio": 1})
    requests = [
        {
            "prompt_token_ids": collapsed(prompt.input_ids, audio_token),
            "multi_modal_data": {"audio": [(prompt.waveform, SAMPLE_RATE)]},
        }
        for prompt in prompts
    ]
    how = [
        SamplingParams(temperature=0.0, max_tokens=prompt.budget, logprobs=1, stop_token_ids=list(ends))
        for prompt in prompts
    ]
    return [_answer(output.outputs[0], ends) for output in engine.generate(requests, how)]


def _answer(output: Any, ends: Sequence[int]) -> FormAnswer:
    tokens = [int(token) for token in output.token_ids]
    own = None
    if output.logprobs:
        own = [float(place[token].logprob) for place, token in zip(output.logprobs, tokens, strict=True)]
    return FormAnswer(with_stop(tokens, getattr(output, "stop_reason", None), ends), own=own)
