"""A run with generated answers ends in the weights of the run without them, bit for bit."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdl_toolkit.training.evaluation import answers
from mdl_toolkit.training.evaluation.evaluation import Evaluation
from mdl_toolkit.training.run import train
from mdl_toolkit.training.steps import loop
from support.training.runs import assert_same_bytes, metrics_of, run_settings, steps_of

TOLD = ("step", "loss", "grad_norm", "learning_rate", "padding_share")
GENERATES = {"eval_generate": 7, "eval_on_start": True, "eval_max_new_tokens": 6}

_KINDS: dict[str, dict[str, Any]] = {
    "adapters": {"lora_dropout": 0.2},
    "recomputed": {"lora_dropout": 0.2, "gradient_checkpointing": True, "gradient_accumulation_steps": 2},
    "quantised": {"lora_dropout": 0.2, "quantization": "8bit"},
    "full": {"method": "full", "train_target": ["encoder", "projector", "decoder", "lm_head"]},
    "full in bfloat16": {"method": "full", "bf16": True},
}


def states() -> list[Any]:
    """The random generators that anything could draw from."""
    return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]


@pytest.mark.parametrize("kind", _KINDS)
def test_nothing_of_the_training_changes(
    shop: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    if "quantization" in _KINDS[kind]:
        pytest.importorskip("bitsandbytes")
    answer = answers.AnswersOfSet.__call__
    seen: list[int] = []

    def watched(self: Any, wrapped: Any, signals: Any = None) -> Any:
        before = states(), [module.training for module in wrapped.model.modules()]
        found = answer(self, wrapped, signals)
        assert (states(), [module.training for module in wrapped.model.modules()]) == before
        assert all(not parameter.is_inference() for parameter in wrapped.model.parameters())
        assert all(not buffer.is_inference() for buffer in wrapped.model.buffers())
        seen.append(len(found))
        return found

    monkeypatch.setattr(answers.AnswersOfSet, "__call__", watched)
    options = {"max_steps": 4, "eval_steps": 2, "save_steps": 4, "eval_dataset": str(shop.held_out)}
    ends = []
    for name, more in (("with", GENERATES), ("without", {})):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        train(run_settings(shop.model, shop.data, tmp_path / name, **options, **_KINDS[kind], **more))
        ends.append(states())
    assert seen[:3] == [7, 7, 7], "before the first step, after the second, after the last"
    assert ends[0] == ends[1]
    for part in ("final", "checkpoint-4"):
        assert_same_bytes(tmp_path / "with" / part, tmp_path / "without" / part)
    optimizer = Path("checkpoint-4", "optimizer.safetensors")
    assert (tmp_path / "with" / optimizer).read_bytes() == (tmp_path / "without" / optimizer).read_bytes()
    told = [
        [{key: line[key] for key in TOLD} for line in steps_of(tmp_path / name)]
        for name in ("with", "without")
    ]
    assert told[0] == told[1]


def test_no_step_is_charged_with_an_evaluation(shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither the first one with that of the base, nor a later one with that before it."""
    shift = 0.0

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return time.perf_counter() + shift

    def slow(self: Any, *given: Any) -> dict[str, float]:
        nonlocal shift
        shift += 10_000
        return evaluate(self, *given)

    evaluate = Evaluation.__call__
    monkeypatch.setattr(loop, "time", Clock)
    monkeypatch.setattr(Evaluation, "__call__", slow)
    options = {"max_steps": 3, "eval_steps": 1, "eval_dataset": str(shop.held_out), "eval_on_start": True}
    train(run_settings(shop.model, shop.data, tmp_path / "out", **options))
    evaluations = [line["eval_seconds"] for line in metrics_of(tmp_path / "out") if "eval_seconds" in line]
    assert len(evaluations) == 4 and min(evaluations) >= 10_000
    assert max(line["seconds"] for line in steps_of(tmp_path / "out")) < 10_000
