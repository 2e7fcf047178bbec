"""bitsandbytes' quantised layers: what is known of their inside, and what happens where it is otherwise."""

from __future__ import annotations

import importlib
import inspect
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from mdl_toolkit.compat import bitsandbytes_layers as compat
from mdl_toolkit.compat.bitsandbytes_layers import import_bitsandbytes, keep_unpacked
from mdl_toolkit.model_folders.quantize import quantized_parameter

bnb = pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def weight(request: pytest.FixtureRequest) -> Tensor:
    return torch.randn(20, 96, generator=torch.Generator().manual_seed(1)).to(request.param)


def layers(weight: Tensor) -> tuple[Any, Any]:
    eight = bnb.nn.Linear8bitLt(96, 20, has_fp16_weights=False)
    return eight, bnb.nn.Linear4bit(96, 20, compute_dtype=weight.dtype, quant_type="nf4")


def check_as_a_whole(weight: Tensor) -> None:
    """Bit for bit what bitsandbytes makes of a weight in one piece."""
    eight, four = layers(weight)
    made: Any = quantized_parameter(eight, weight, CPU)
    whole = bnb.nn.Int8Params(weight, False).to(CPU)
    assert torch.equal(made.data, whole.data) and torch.equal(made.CB, whole.CB)
    assert torch.equal(made.SCB.flatten(), whole.SCB.flatten())
    made = quantized_parameter(four, weight, CPU)
    whole = bnb.nn.Params4bit(weight, False, quant_type="nf4", blocksize=32).to(CPU)
    assert made.bnb_quantized and four.quant_state is made.quant_state
    assert torch.equal(made.data, whole.data)
    mine, its = made.quant_state.as_dict(packed=True), whole.quant_state.as_dict(packed=True)
    assert mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in its)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_pieces_are_quantised_as_the_whole(
    monkeypatch: pytest.MonkeyPatch, weight: Tensor, rows: int
) -> None:
    monkeypatch.setattr(compat, "PIECE_ELEMENTS", rows * 96)
    check_as_a_whole(weight)


@pytest.mark.parametrize(
    "gone",
    ["int8_vectorwise_quant and quantize_blockwise", "constructors"],
    ids=["functions", "constructors"],
)
def test_without_what_pieces_need_the_whole_is_quantised(
    monkeypatch: pytest.MonkeyPatch, weight: Tensor, gone: str
) -> None:
    asked = []

    def refuses(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        raise TypeError("another signature")

    if gone == "constructors":
        whole = {name: getattr(bnb.nn, name) for name in ("Int8Params", "Params4bit")}
        for name, kind in whole.items():
            monkeypatch.setattr(bnb.nn, name, _without_state(kind, asked))
    else:
        monkeypatch.setattr(compat, "rows_in_8bit", refuses)
        monkeypatch.setattr(compat, "_blocks_in_4bit", refuses)
    eight, four = layers(weight)
    made = [quantized_parameter(layer, weight, CPU) for layer in (eight, four)]
    monkeypatch.undo()
    assert len(asked) == 2
    fresh = layers(weight)
    for one, layer in zip(made, fresh, strict=True):
        assert torch.equal(one.data, quantized_parameter(layer, weight, CPU).data)


def _without_state(kind: Any, asked: list[Any]) -> Any:
    """A constructor that no longer takes what was quantised before."""

    def construct(*args: Any, **kwargs: Any) -> Any:
        if {"CB", "SCB", "bnb_quantized"} & kwargs.keys():
            asked.append(args)
            raise TypeError("unexpected keyword argument")
        return kind(*args, **kwargs)

    return construct


def test_four_bits_stay_in_the_form_that_can_be_trained(weight: Tensor) -> None:
    """The attribute that keeps them so is read where there is a packed form, which came with version 0.49."""
    source = inspect.getsource(bnb.nn.Linear4bit)
    if "packing_format_for_cpu" in source:
        assert "self.support_avx512bf16_for_cpu" in source
    _, layer = layers(weight)
    keep_unpacked(layer)
    layer.weight = quantized_parameter(layer, weight, CPU)
    before = layer.weight.data.clone()
    layer.eval()
    with torch.no_grad():
        layer(torch.randn(3, 96, dtype=weight.dtype))
    assert torch.equal(layer.weight.data, before)


def test_the_loggers_are_there_and_what_they_repeat_is_dropped() -> None:
    import_bitsandbytes()
    for name in compat._LOGGERS:
        importlib.import_module(name)  # the logger is named after a module
        logger = logging.getLogger(name)
        said = [
            bool(logger.filter(logging.LogRecord(name, 30, "", 0, text, (), None)))
            for text in ("inputs will be cast from float32", "something else")
        ]
        assert said == [False, True]
