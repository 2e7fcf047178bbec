"""PEFT's LoRA layers: what is known of their inside, and what happens where it is otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from mdl_toolkit.compat.peft_layers import has_expected_parts, is_lora_layer, mark_as_quantized
from mdl_toolkit.model_folders.adapter_config import value_for
from mdl_toolkit.model_folders.names import ADAPTER
from mdl_toolkit.training.trainable.layers import DoraLinear, LoraLinear, use_own_forward


def adapted(dora: bool = False) -> Any:
    """A linear layer with one of PEFT's adapters that does something."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5)).requires_grad_(False)
    config = peft.LoraConfig(r=2, target_modules=["0"], use_dora=dora, init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    return model[0]


def compute(layer: Any, x: Tensor) -> list[Tensor]:
    """What a layer makes of ``x``, and the gradients of its adapter."""
    layer.zero_grad()
    out = layer(x)
    out.square().sum().backward()
    return [out, *(p.grad for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("dora", [False, True])
def test_layers_have_the_expected_parts(dora: bool) -> None:
    layer, x = adapted(dora), torch.randn(4, 6)
    assert is_lora_layer(layer, ADAPTER) and not is_lora_layer(layer, "other")
    assert not is_lora_layer(nn.Linear(1, 1), ADAPTER)
    theirs = compute(layer, x)
    use_own_forward(layer)
    assert isinstance(layer, DoraLinear if dora else LoraLinear)
    torch.testing.assert_close(compute(layer, x), theirs)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("change", ["a part is gone", "another variant"])
def test_layers_of_another_make_keep_pefts_forward(
    dora: bool, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, x = adapted(dora), adapted(dora), torch.randn(4, 6)
    use_own_forward(ours)
    if change == "a part is gone":
        monkeypatch.setattr("mdl_toolkit.compat.peft_layers._READ", ("base_layer", "a_new_name_of_a_part"))
    else:
        kind = type(theirs.lora_variant.get(ADAPTER, object()))
        theirs.lora_variant = {ADAPTER: type("AnotherVariant", (kind,), {})()}
    assert not has_expected_parts(theirs, ADAPTER)
    use_own_forward(theirs)
    assert not isinstance(theirs, LoraLinear)
    if change == "a part is gone" or dora:
        torch.testing.assert_close(compute(theirs, x), compute(ours, x))


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_a_marked_model_gets_pefts_quantised_layers(kind: str) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    made = {"8bit": bnb.nn.Linear8bitLt, "4bit": bnb.nn.Linear4bit}[kind](64, 64)
    model = nn.Sequential(made)
    config = peft.LoraConfig(r=2, target_modules=["0"])
    mark_as_quantized(model, kind)
    peft.inject_adapter_in_model(config, model)
    assert type(model[0]).__module__ == "peft.tuners.lora.bnb"


@pytest.mark.parametrize(
    "patterns",
    [{}, {"q_proj": 4}, {"layers.0.*": 4, "q_proj": 8}, {"model.layers.1.q_proj": 2}, {r"[qk]_proj": 3}],
)
@pytest.mark.parametrize(
    "module", ["model.layers.0.q_proj", "model.layers.1.q_proj", "q_proj", "xq_proj", "v_proj"]
)
def test_patterns_are_read_as_peft_reads_them(patterns: dict[str, int], module: str) -> None:
    from peft.utils.other import get_pattern_key

    wanted = patterns.get(get_pattern_key(list(patterns), module), 16)
    assert value_for(patterns, module, 16) == wanted


def test_pefts_own_model_agrees_on_a_pattern(tmp_path: Path) -> None:
    model = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "xq_proj": nn.Linear(4, 4)})
    patterns = {"q_proj": 2}
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "xq_proj"], rank_pattern=patterns)
    made: Any = peft.inject_adapter_in_model(config, model)
    for name in ("q_proj", "xq_proj"):
        assert made[name].r[ADAPTER] == value_for(patterns, name, 3)
