"""Engines as ``verify`` meets them: packages of their names, with our own model inside."""

from __future__ import annotations

from pathlib import Path

#: What both have: a model folder asked with one placeholder a clip, greedily.
_COMMON = """
import math
import numpy as np
import torch
from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.model_folders.load import load_model


def ask(model, input_ids, waveform, budget, ends):
    waveform = np.asarray(waveform, dtype=np.float32) * {gain}
    token = model.config.audio_token_id
    places = [place for place, name in enumerate(input_ids) if name == token]
    assert len(places) == 1, "an engine is given one placeholder a clip"
    many = [token] * model.geometry.audio_tokens(len(waveform))
    ids = [*input_ids[: places[0]], *many, *input_ids[places[0] + 1 :]]
    answer = Generator(model, ends)([Prompt(np.array(ids), waveform, budget)])[0]
    return answer
"""

_VLLM = """
class SamplingParams:
    def __init__(self, temperature, max_tokens, logprobs, stop_token_ids):
        assert temperature == 0.0
        self.max_tokens, self.stop_token_ids = max_tokens, stop_token_ids


class _Output:
    def __init__(self, tokens, stop):
        self.token_ids, self.logprobs, self.stop_reason = tokens, None, stop


class _Request:
    def __init__(self, output):
        self.outputs = [output]


class LLM:
    def __init__(self, model, trust_remote_code, limit_mm_per_prompt):
        self.model = load_model(__import__("pathlib").Path(model), dtype=torch.float32)

    def generate(self, requests, how):
        made = []
        for request, params in zip(requests, how):
            [(waveform, rate)] = request["multi_modal_data"]["audio"]
            assert rate == 16000
            answer = ask(
                self.model, request["prompt_token_ids"], waveform, params.max_tokens, params.stop_token_ids
            )
            stop = params.stop_token_ids[0] if answer.finished else None
            made.append(_Request(_Output(list(answer.tokens), stop)))
        return made
"""

_SGLANG = """
class Engine:
    def __init__(self, model_path, trust_remote_code):
        self.model = load_model(__import__("pathlib").Path(model_path), dtype=torch.float32)

    def generate(self, input_ids, audio_data, sampling_params, return_logprob):
        import soundfile
        waveform, rate = soundfile.read(audio_data, dtype="float32")
        assert rate == 16000 and sampling_params["temperature"] == 0.0
        ends = sampling_params["stop_token_ids"]
        answer = ask(self.model, input_ids, waveform, sampling_params["max_new_tokens"], ends)
        matched = {{"type": "stop", "matched": ends[0]}} if answer.finished else {{"type": "length"}}
        return {{"output_ids": list(answer.tokens), "meta_info": {{"finish_reason": matched}}}}

    def shutdown(self):
        pass
""".replace("{{", "{").replace("}}", "}")


def install(folder: Path, engine: str, version: str, gain: float = 1.0) -> None:
    """Put a stand-in into a folder of packages.

    Args:
        folder: To be put on the path.
        engine: ``vllm`` or ``sglang``.
        version: The version that it says it is.
        gain: What it multiplies clips by: other than 1, it mishears them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = _COMMON.replace("{gain}", repr(gain)) + {"vllm": _VLLM, "sglang": _SGLANG}[engine]
    (folder / f"{engine}.py").write_text(source)
    described = folder / f"{engine}-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {engine}\nVersion: {version}\n")


def publish_code(model: Path, wrong: bool = False) -> None:
    """Put code of a publisher into a model folder: our own class by another name, or a faulty one."""
    (model / "configuration_midashenglm.py").write_text(
        "from mdl_toolkit.model.config import MiDashengLMConfig as Ours\n\n\n"
        "class MiDashengLMConfig(Ours):\n"
        "    def __init__(self, *args, **fields):\n        super().__init__(*args, **fields)\n"
    )
    fault = (
        "    def encode_audio(self, waveform, audio_samples):\n"
        "        return -super().encode_audio(waveform, audio_samples)\n"
    )
    (model / "modeling_midashenglm.py").write_text(
        "from mdl_toolkit.model.midashenglm import MiDashengLMModel as Ours\n\n"
        "from .configuration_midashenglm import MiDashengLMConfig\n\n\n"
        "class MiDashengLMModel(Ours):\n    config_class = MiDashengLMConfig\n\n" + (fault if wrong else "")
    )
