"""SGLang, by its offline engine (``sglang.Engine``)."""

from __future__ import annotations

import tempfile
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
    import sglang
    import soundfile

    engine: Any = sglang.Engine(model_path=str(folder), trust_remote_code=trusted)
    try:
        with tempfile.TemporaryDirectory(prefix="mdl-verify-") as clips:
            found = []
            for number, prompt in enumerate(prompts):
                clip = Path(clips) / f"{number}.wav"
                soundfile.write(clip, prompt.waveform, SAMPLE_RATE, subtype="FLOAT")
                output = engine.generate(
                    input_ids=collapsed(prompt.input_ids, audio_token),
                    audio_data=str(clip),
                    sampling_params={
                        "temperature": 0.0, "max_new_tokens": prompt.budget, "stop_token_ids": list(ends),
                    },
                    return_logprob=True,
                )  # fmt: skip
                found.append(_answer(output, ends))
            return found
    finally:
        engine.shutdown()


def _answer(output: Any, ends: Sequence[int]) -> FormAnswer:
    info = output["meta_info"]
    tokens = [int(token) for token in output["output_ids"]]
    places = info.get("output_token_logprobs") or []
    own = [float(place[0]) for place in places] or None
    reason = info.get("finish_reason") or {}
    matched = reason.get("matched") if isinstance(reason, dict) else None
    return FormAnswer(with_stop(tokens, matched, ends), own=own)
