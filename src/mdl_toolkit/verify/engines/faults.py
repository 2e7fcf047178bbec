"""Faults of serving engines that change what a MiDashengLM answers, by version. Standard library alone."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault of an engine.

    Attributes:
        engine: The engine's package.
        fixed_in: The first version without it; ``None`` where there is none yet.
        what: What is wrong.
        remedy: What to do.
    """

    engine: str
    fixed_in: str | None
    what: str
    remedy: str


#: Each with the place where it was reported.
FAULTS = (
    Fault(
        "vllm",
        "0.11.0",
        "masks the audio encoder's keys wrongly, so that clips are misheard (vllm-project/vllm#25925)",
        "use vLLM 0.11.0 or later",
    ),
    Fault(
        "vllm",
        None,
        "takes no LoRA adapter for the audio encoder and the projector (vllm-project/vllm#45771)",
        "serve the merged model",
    ),
    Fault(
        "sglang",
        None,
        "applies a LoRA adapter to the decoder alone and drops the rest (sgl-project/sglang#28784)",
        "serve the merged model",
    ),
)


def faults_of(engine: str, version: str, adapter: bool) -> list[Fault]:
    """The known faults of a version of an engine that concern this use of it.

    Args:
        engine: The engine's package.
        version: Its version.
        adapter: Whether it is to serve an adapter; what only concerns adapters is left out otherwise.
    """
    return [
        fault
        for fault in FAULTS
        if fault.engine == engine
        and (fault.fixed_in is None or _numbers(version) < _numbers(fault.fixed_in))
        and (adapter or fault.fixed_in is not None)
    ]


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version: ``0.11.0rc1`` is (0, 11, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[a-z+]", version)[0]))
