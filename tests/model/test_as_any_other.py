"""A model from ``from_pretrained`` behaves as any other of the library's: nothing in it can go stale."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from mdl_toolkit.model.kernels import linear as products
from mdl_toolkit.model.kernels.linear import Layout, Linear, forget_layouts, lay_out
from mdl_toolkit.model.midashenglm import MiDashengLMModel
from mdl_toolkit.model_folders.load import load_model
from support.models.batches import random_batch
from support.models.tiny import make_model_folder

Tiny = Callable[..., Any]


def loss_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**random_batch(range(3)).model_inputs()).loss_sum


def laid_out(folder: Path, backward: bool = False) -> MiDashengLMModel:
    """A model as ``inference`` and ``train`` have it."""
    model = load_model(folder).requires_grad_(False)
    assert lay_out(model, 2**40, backward=backward) > 0
    return model


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
def test_its_layers_are_the_librarys(tiny: Tiny, decoder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny(decoder).folder)
    kind = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}[decoder]
    assert isinstance(model.decoder, kind)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert linears and {type(module) for module in linears} == {nn.Linear}
    plain = kind(model.config.text_config)
    classes = {name: type(module) for name, module in model.decoder.named_modules()}
    different = {name for name, module in plain.named_modules() if classes[name] is not type(module)}
    assert different == {"model.layers.1"}  # computes for fewer positions where it is told to, else the same
    assert not any(isinstance(getattr(module, "layout", None), Layout) for module in model.modules())


@pytest.mark.parametrize("write", ["data", "numpy", "fused", "parameter", "assign", "vector"])
def test_whoever_writes_a_weight_sees_it(tiny: Tiny, write: str, always_onednn: None) -> None:
    model = MiDashengLMModel.from_pretrained(tiny().folder)
    before = loss_of(model)
    layer = model.decoder.model.layers[0].mlp.down_proj
    changed = layer.weight.detach().clone() * 3 + 1
    if write == "data":
        layer.weight.data.mul_(3).add_(1)
    elif write == "numpy":
        view = layer.weight.detach().numpy()
        np.multiply(view, 3, out=view)
        np.add(view, 1, out=view)
    elif write == "parameter":
        layer.weight = nn.Parameter(changed)
    elif write == "assign":
        layer.load_state_dict({"weight": changed}, assign=True)
    elif write == "vector":
        nn.utils.vector_to_parameters(changed.flatten(), layer.parameters())
    else:
        layer.weight.grad = torch.ones_like(layer.weight)
        torch.optim.AdamW([layer.weight], lr=1.0, fused=True).step()
        changed = layer.weight.detach().clone()
    after = loss_of(model)
    assert not torch.allclose(after, before)
    fresh = MiDashengLMModel.from_pretrained(tiny().folder)
    with torch.no_grad():
        fresh.decoder.model.layers[0].mlp.down_proj.weight.copy_(changed)
    torch.testing.assert_close(after, loss_of(fresh))


class TestLaidOut:
    """Our own commands' models: writes that torch can see are noticed, others have to be said."""

    @pytest.mark.parametrize(
        "write", ["copy_", "parameter", "set_data", "back", "half", "load", "assign", "trained"]
    )
    def test_a_write_is_noticed(self, write: str, always_onednn: None) -> None:
        layer = Linear(24, 11).requires_grad_(False)
        lay_out(layer, 2**30)
        assert layer.layout is not None
        x, values = torch.randn(5, 24), torch.randn(11, 24)
        if write == "copy_":
            layer.weight.copy_(values)
        elif write == "parameter":
            layer.weight = nn.Parameter(values, requires_grad=False)
        elif write == "set_data":
            layer.weight.data = values
        elif write == "back":  # to where the weight was, were its storage given back meanwhile
            for _ in range(8):
                layer.weight.data = torch.randn(11, 24)
            values = layer.weight.detach()
        elif write == "half":
            layer.half().float()
            values = layer.weight
        elif write == "load":
            layer.load_state_dict({"weight": values, "bias": layer.bias})
        elif write == "assign":
            layer.load_state_dict({"weight": values, "bias": layer.bias}, assign=True)
        else:
            layer.weight.requires_grad_()
            layer(x)
            layer.weight.grad = values
            torch.optim.SGD([layer.weight], lr=1.0, fused=True).step()
            layer.weight.requires_grad_(False)
            values = layer.weight
        torch.testing.assert_close(layer(x), nn.functional.linear(x, values, layer.bias))

    def test_what_torch_cannot_see_is_said(self, always_onednn: None) -> None:
        layer = Linear(24, 11).requires_grad_(False)
        lay_out(layer, 2**30)
        forget_layouts(layer)
        layer.weight.data.mul_(2)
        x = torch.randn(5, 24)
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))

    def test_nobody_but_the_commands_asks_for_it(self) -> None:
        source = Path(products.__file__).parents[2]
        parts = {
            path.relative_to(source).parts[0]
            for path in source.rglob("*.py")
            if re.search(r"\blay_out\(", path.read_text(encoding="utf-8").replace("def lay_out(", ""))
        }
        assert parts == {"training", "infer"}


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("made", ["from_pretrained", "qwen3", "load_model", "laid out"])
def test_copies_are_the_same_model(tiny: Tiny, way: str, made: str, always_onednn: None) -> None:
    folder = tiny("qwen3" if made == "qwen3" else "qwen2").folder
    if made == "laid out":
        model: Any = laid_out(folder, backward=True)
    elif made == "load_model":
        model = load_model(folder)
    else:
        model = MiDashengLMModel.from_pretrained(folder)
    if way == "deepcopy":
        other = copy.deepcopy(model)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        stream = io.BytesIO()
        torch.save(model, stream)
        stream.seek(0)
        other = torch.load(stream, weights_only=False)
    assert type(other) is type(model)
    torch.testing.assert_close(loss_of(other), loss_of(model))
    assert other.config.to_dict() == model.config.to_dict()
    with torch.no_grad():
        before = loss_of(model)
        other.decoder.lm_head.weight.data.add_(torch.randn_like(other.decoder.lm_head.weight))
        assert not torch.allclose(loss_of(other), before)
        torch.testing.assert_close(loss_of(model), before)


@pytest.mark.parametrize("tie", [False, True])
def test_saved_and_loaded_again(tiny: Tiny, tmp_path: Path, tie: bool) -> None:
    model = MiDashengLMModel.from_pretrained(tiny("qwen3", tie=tie).folder)
    model.save_pretrained(tmp_path / "again")
    for load in (MiDashengLMModel.from_pretrained, load_model):
        torch.testing.assert_close(loss_of(load(tmp_path / "again")), loss_of(model))
    state = model.state_dict()
    other = MiDashengLMModel.from_pretrained(
        make_model_folder(tmp_path / "other", seed=5, decoder="qwen3", tie=tie)
    )
    assert not torch.allclose(loss_of(other), loss_of(model))
    other.load_state_dict(state)
    torch.testing.assert_close(loss_of(other), loss_of(model))


def test_casts_and_moves(tiny: Tiny) -> None:
    model = MiDashengLMModel.from_pretrained(tiny().folder)
    before = loss_of(model)
    for cast in (model.half, lambda: model.to(torch.bfloat16), model.bfloat16):
        cast()
        assert model.audio_encoder.init_bn.weight.dtype == torch.float32
        assert torch.isfinite(loss_of(model))
    model.to("meta").to_empty(device="cpu")
    model.load_state_dict(MiDashengLMModel.from_pretrained(tiny().folder).state_dict())
    model.recompute_constants()
    model.float()
    torch.testing.assert_close(loss_of(model), before, rtol=1e-2, atol=1e-2)


def test_gradient_checkpointing_by_the_librarys_switch(tiny: Tiny) -> None:
    def gradients(enable: bool) -> dict[str, Tensor]:
        model = MiDashengLMModel.from_pretrained(tiny().folder).train()
        if enable:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(**random_batch(range(2)).model_inputs()).loss_sum.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


@pytest.mark.parametrize("tie", [False, True])
def test_token_embeddings_can_be_resized(tiny: Tiny, tmp_path: Path, tie: bool) -> None:
    model = MiDashengLMModel.from_pretrained(tiny("qwen3", tie=tie).folder)
    before, size = loss_of(model), model.config.text_config.vocab_size
    model.resize_token_embeddings(size + 7, mean_resizing=False)
    assert model.get_input_embeddings().weight.shape[0] == size + 7
    assert model.get_output_embeddings().weight.shape[0] == size + 7
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tie
    after = loss_of(model)
    assert torch.isfinite(after) and after > before  # more words share the probability
    model.save_pretrained(tmp_path / "resized")
    torch.testing.assert_close(loss_of(MiDashengLMModel.from_pretrained(tmp_path / "resized")), after)
    torch.testing.assert_close(loss_of(load_model(tmp_path / "resized")), after)


def test_it_generates_after_all_that(tiny: Tiny) -> None:
    case = tiny()
    row = case.row(16000, answer=0)
    model = MiDashengLMModel.from_pretrained(case.folder).eval()
    inputs: Any = {
        "input_ids": torch.tensor([row["ids"]]),
        "attention_mask": torch.ones(1, len(row["ids"]), dtype=torch.long),
        "input_values": torch.from_numpy(row["waveform"])[None],
        "audio_length": [len(row["waveform"])],
    }
    options: Any = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    wanted = model.generate(**inputs, **options)
    assert torch.equal(copy.deepcopy(model).generate(**inputs, **options), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(model)).generate(**inputs, **options), wanted)
    assert torch.equal(load_model(case.folder).generate(**inputs, **options), wanted)


def test_pefts_own_ways_on_a_model_of_the_users(tiny: Tiny) -> None:
    config = peft.LoraConfig(r=4, target_modules=r".*(qkv|gate_proj)", init_lora_weights=False)
    model = peft.get_peft_model(MiDashengLMModel.from_pretrained(tiny().folder), config).eval()
    base = loss_of(MiDashengLMModel.from_pretrained(tiny().folder))
    adapted = loss_of(model)
    assert not torch.allclose(adapted, base)
    with model.disable_adapter():
        torch.testing.assert_close(loss_of(model), base)
    model.merge_adapter()
    torch.testing.assert_close(loss_of(model), adapted)
    model.unmerge_adapter()
    torch.testing.assert_close(loss_of(model), adapted)
    torch.testing.assert_close(loss_of(model.merge_and_unload()), adapted)


def test_per_sample_gradients(tiny: Tiny) -> None:
    """``torch.func`` goes through the model: it has no backward pass that only autograd's engine knows."""
    model = MiDashengLMModel.from_pretrained(tiny().folder)
    ids = torch.arange(6)[None]
    head = {"decoder.lm_head.weight": model.decoder.lm_head.weight.detach()}

    def loss(changed: dict[str, Tensor]) -> Tensor:
        out = torch.func.functional_call(model, changed, kwargs={"input_ids": ids, "labels": ids})
        return out.loss

    found = torch.func.grad(loss)(head)["decoder.lm_head.weight"]
    model(input_ids=ids, labels=ids).loss.backward()
    torch.testing.assert_close(found, model.decoder.lm_head.weight.grad)
