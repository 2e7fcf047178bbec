"""Memory, FLOPs and balance count with the same sizes of a model; their numbers are pinned for two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mdl_toolkit
from mdl_toolkit.data.batching.balance import Costs, clip_work
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.model import MiDashengLMConfig
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.metrics.flops import FlopCounter
from mdl_toolkit.training.trainable.memory import Activations
from support.models.tiny import SEVEN_BILLION, tiny_config

TINY = json.loads((Path(mdl_toolkit.__file__).parent / "demo" / "tiny" / "config.json").read_text())
PUBLISHED_7B = tiny_config(**SEVEN_BILLION)
TOKENS, SAMPLES = np.array([40, 75, 300]), np.array([1000, 48000, 330000])


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"train_dataset": "data", "output": Path("run"), **changes})


def config(fields: dict[str, Any]) -> MiDashengLMConfig:
    return MiDashengLMConfig(**fields)


def flops(fields: dict[str, Any], *trained: str) -> float:
    tensors = {name: torch.empty(4, 100, device="meta") for name in trained}
    made = config(fields)
    return FlopCounter(made, tensors, made.geometry).step(TOKENS, SAMPLES, 9)


def test_costs_of_clips() -> None:
    costs = [tuple(vars(Costs.from_config(fields)).values()) for fields in (PUBLISHED_7B, TINY)]
    assert costs == [
        (0.09641651936365098, 0.08352080989876265, 1.5378937007874016e-05, 1.2554234292142054e-05),
        (2.4, 0.2222222222222222, 0.0005208333333333333, 0.0020833333333333333),
    ]
    work = clip_work(TOKENS, SAMPLES, np.array([2, 3, 4]), AudioGeometry(), Costs())
    assert work.tolist() == [40.677324999999996, 82.6845, 353.293677]


@pytest.mark.parametrize(
    ("fields", "layers", "expected"),
    [
        (PUBLISHED_7B, 28, [6059263856640.0, 11356216270848.0, 12118139223680.0, 6078883762176.0]),
        (TINY, 3, [3917967040.0, 4678131840.0, 7778892800.0, 3925339840.0]),
    ],
)
def test_operations_of_a_step(fields: dict[str, Any], layers: int, expected: list[float]) -> None:
    last = f"decoder.model.layers.{layers - 1}.mlp.down_proj.lora_A.weight"
    assert [
        flops(fields),
        flops(fields, "audio_projector.net.0.weight"),
        flops(fields, last, "audio_encoder.blocks.0.attn.qkv.lora_A.weight"),
        flops(fields, "decoder.lm_head.weight"),
    ] == expected


@pytest.mark.parametrize(
    ("changes", "large", "small"),
    [
        (
            {},
            (10276864.0, 331776.0, 1966080.0, 378880.0, 61440.0, 602112.0, 245760.0),
            (25600.0, 8960.0, 46080.0, 11520.0, 9216.0, 2880.0, 5760.0),
        ),
        (
            {"dora": True},
            (14755840.0, 497664.0, 2621440.0, 544768.0, 81920.0, 602112.0, 245760.0),
            (34560.0, 13440.0, 61440.0, 16000.0, 12288.0, 2880.0, 5760.0),
        ),
        (
            {"method": "full"},
            (11280384.0, 331776.0, 2621440.0, 414720.0, 81920.0, 602112.0, 245760.0),
            (30400.0, 8960.0, 61440.0, 13120.0, 12288.0, 2880.0, 5760.0),
        ),
        (
            {"train_target": ["projector"]},
            (7843840.0, 241664.0, 0.0, 288768.0, 0.0, 602112.0, 0.0),
            (20480.0, 6400.0, 0.0, 8960.0, 0.0, 2880.0, 0.0),
        ),
    ],
    ids=["lora", "dora", "full", "projector"],
)
def test_bytes_of_a_pass(changes: dict[str, Any], large: tuple[float], small: tuple[float]) -> None:
    for fields, expected in ((PUBLISHED_7B, large), (TINY, small)):
        found = tuple(vars(Activations.of(config(fields), settings(**changes), 4)).values())
        assert found == expected
        halves = tuple(vars(Activations.of(config(fields), settings(**changes), 2)).values())
        if changes != {"method": "full"}:  # there autocast keeps float32 beside
            assert halves == tuple(value / 2 for value in expected)


def test_autocast_keeps_norms_and_residuals_in_float32() -> None:
    found = tuple(vars(Activations.of(config(PUBLISHED_7B), settings(method="full"), 2)).values())
    assert found == (6428672.0, 180224.0, 1638400.0, 236032.0, 51200.0, 301056.0, 122880.0)
