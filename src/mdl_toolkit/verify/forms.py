"""The forms in which a model is compared: each loads it in one way, and asks it in one way.

One form is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdl_toolkit.compat.bitsandbytes_layers import import_bitsandbytes
from mdl_toolkit.errors import printable
from mdl_toolkit.memory import free_memory
from mdl_toolkit.model import MiDashengLMModel
from mdl_toolkit.model_folders.load import main_dtype
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.settings import VerifySettings
from mdl_toolkit.settings.checks import missing_extra
from mdl_toolkit.settings.commands.verify import FORMS
from mdl_toolkit.verify.asked import Questions
from mdl_toolkit.verify.asking import ask_packed, ask_padded
from mdl_toolkit.verify.engines import publisher, sglang, vllm
from mdl_toolkit.verify.engines.faults import Fault, faults_of
from mdl_toolkit.verify.engines.requests import installed_version
from mdl_toolkit.verify.subject import Subject
from mdl_toolkit.verify.traces import FormAnswer, Trace

#: Differences of log-probabilities that are accepted, in nats: rounding in float32, in bfloat16, in few bits.
FLOAT32, BFLOAT16, QUANTIZED = 1e-3, 0.25, 1.0

Ask = Callable[[Subject, Questions, Sequence[Trace], int], list[FormAnswer]]


@dataclass(frozen=True)
class ModelForm:
    """A form of a model.

    Attributes:
        name: As ``--form`` has it.
        title: For people.
        ask: Loads the model in this form and answers the questions.
        tolerance: The difference of log-probabilities that its precision explains.
        unavailable: Why it can't be had here; empty where it can.
        faults: Known faults of the engine's version.
    """

    name: str
    title: str
    ask: Ask
    tolerance: float
    unavailable: str = ""
    faults: Sequence[Fault] = ()


def all_forms(subject: Subject, settings: VerifySettings) -> list[ModelForm]:
    """All forms, in the order of ``FORMS``, those too that can't be had here."""
    plain = BFLOAT16 if subject.dtype == torch.bfloat16 else FLOAT32
    disk = (
        "merged, written and reloaded"
        if subject.is_written_anew
        else f"{subject.given.folder} as it is on disk"
    )
    # A folder that was rounded when it was written isn't what training had, to float32's precision.
    once = "" if subject.reference.folder != subject.disk else "it is the reference"
    written = plain if once else max(plain, _rounding(subject.disk))
    same = "it is the reference" if settings.bf16 else ""
    batch = settings.batch_size
    made = [
        ModelForm("merged", "merged in memory", _merged, plain, _no_merging(subject)),
        ModelForm("disk", disk, _from_disk, written, once),
        ModelForm("batches", f"in batches of {batch}", _in_batches, plain),
        ModelForm("padded", f"padded, by transformers' generate, in batches of {batch}", _padded, written),
        ModelForm("bfloat16", "bfloat16", _in_bfloat16, BFLOAT16, same),
        *(
            ModelForm(bits, f"decoder in {bits}", _quantized(bits), QUANTIZED, _no_quantizing())
            for bits in ("8bit", "4bit")
        ),
        ModelForm(
            "transformers", "the publisher's code in transformers", _publisher, written,
            publisher.unavailable(subject.disk, settings.trust_remote_code),
        ),
        _served("vllm", "vLLM", vllm, settings.trust_remote_code),
        _served("sglang", "SGLang", sglang, settings.trust_remote_code),
    ]  # fmt: skip
    assert tuple(form.name for form in made) == FORMS
    return made


def _rounding(folder: Path) -> float:
    """What the dtype of a folder's weights explains."""
    return FLOAT32 if main_dtype(WeightFiles(folder)) == torch.float32 else BFLOAT16


def _no_merging(subject: Subject) -> str:
    if not subject.is_adapter:
        return "there is no adapter to merge"
    return "adapters of a quantised run are merged by the export alone" if subject.quantization else ""


def _no_quantizing() -> str:
    return next(iter(missing_extra("bitsandbytes", "it", "quantization")), "")


def _packed(model: MiDashengLMModel, questions: Questions, reference: Sequence[Trace], together: int) -> Any:
    found = ask_packed(model, questions, reference, together)
    del model
    free_memory()
    return found


def _merged(subject: Subject, questions: Questions, reference: Sequence[Trace], together: int) -> Any:  # noqa: ARG001 -- one row at a time
    """PEFT's own merging, which knows nothing of how ``final/`` is written."""
    import_bitsandbytes()  # PEFT imports it where it is installed
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = subject.load_reference()
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    return _packed(model, questions, reference, 1)


def _from_disk(subject: Subject, questions: Questions, reference: Sequence[Trace], together: int) -> Any:  # noqa: ARG001 -- one row at a time
    return _packed(subject.load_disk(), questions, reference, 1)


def _in_batches(subject: Subject, questions: Questions, reference: Sequence[Trace], together: int) -> Any:
    return _packed(subject.load_reference(), questions, reference, together)


def _padded(subject: Subject, questions: Questions, reference: Sequence[Trace], together: int) -> Any:
    """As everyone loads it who has our class: plain layers, padded batches, transformers' loop."""
    with publisher.no_progress_bars():
        model = MiDashengLMModel.from_pretrained(str(subject.disk), dtype=subject.dtype)
    return ask_padded(model.to(subject.device).eval().requires_grad_(False), questions, reference, together)


def _in_bfloat16(subject: Subject, questions: Questions, reference: Sequence[Trace], together: int) -> Any:
    return _packed(subject.load_disk(torch.bfloat16), questions, reference, together)


def _quantized(bits: Any) -> Ask:
    def ask(subject: Subject, questions: Questions, reference: Sequence[Trace], together: int) -> Any:
        dtype = torch.bfloat16 if subject.device.type == "cuda" else subject.dtype
        return _packed(subject.load_disk(dtype, bits), questions, reference, together)

    return ask


def _publisher(subject: Subject, questions: Questions, reference: Sequence[Trace], together: int) -> Any:
    model = publisher.load(subject.disk, subject.dtype, subject.device)
    return ask_padded(model, questions, reference, together)


def _served(name: str, title: str, engine: Any, trusted: bool) -> ModelForm:
    """A serving engine. It is given the stand-alone folder, so faults with adapters don't concern it."""

    def ask(subject: Subject, questions: Questions, reference: Sequence[Trace], together: int) -> Any:  # noqa: ARG001 -- an engine batches by itself
        token = questions.builder.audio_token_id
        return engine.ask(subject.disk, questions.prompts, token, questions.ends, trusted)

    version = installed_version(name)
    if version is None:
        return ModelForm(name, title, ask, BFLOAT16, "it is not installed")
    return ModelForm(
        name, f"{title} {version}", ask, BFLOAT16, faults=faults_of(name, version, adapter=False)
    )


def plain_error(error: BaseException) -> str:
    """An error of another program in one line."""
    text = " ".join(str(error).split())[:300]
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)
