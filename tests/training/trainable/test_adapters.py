"""What is trained, how it is named, and that PEFT reads what it is written as."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners import lora

from mdl_toolkit.errors import ModelError, SettingsError
from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
from mdl_toolkit.model_folders.load import build_empty, load_model
from mdl_toolkit.model_folders.names import PEFT_PREFIX, part_of
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable.adapters import (
    describe_trainable,
    load_trained,
    lora_config,
    make_trainable,
    trainable_parameters,
    trained_tensors,
    trained_weights,
)
from mdl_toolkit.training.trainable.layers import DoraLinear, LoraLinear
from support.models.batches import random_batch
from support.models.tiny import SEVEN_BILLION, make_model_folder, tiny_config


def settings(**changes: Any) -> TrainSettings:
    values: dict[str, Any] = {"train_dataset": "data", "output": Path("run"), "lora_rank": 4}
    return TrainSettings(**{**values, **changes})


def tiny(seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> MiDashengLMModel:
    torch.manual_seed(seed)
    return MiDashengLMModel(MiDashengLMConfig(**tiny_config(**config))).to(dtype)


def trained(**changes: Any) -> MiDashengLMModel:
    model = tiny(**{key: changes.pop(key) for key in ("dtype", "tie") if key in changes})
    make_trainable(model, settings(**changes))
    return model


@pytest.fixture(scope="module")
def seven_billion() -> MiDashengLMModel:
    with torch.device("meta"):
        return MiDashengLMModel(MiDashengLMConfig(**tiny_config(**SEVEN_BILLION)))


class TestTargets:
    def test_the_7b_model_gets_upstreams_number_of_parameters(self, seven_billion: MiDashengLMModel) -> None:
        make_trainable(seven_billion, settings(lora_rank=32))
        counts = {name: p.numel() for name, p in trainable_parameters(seven_billion).items()}
        assert sum(counts.values()) == 68_968_448
        assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in counts)
        table = describe_trainable(seven_billion)
        assert "68,968,448" in table and "60,555,264" in table

    def test_exactly_upstreams_layers_are_adapted(self) -> None:
        adapted = {name.split(".lora_")[0] for name in trainable_parameters(trained())}
        assert adapted == {
            *(f"audio_encoder.blocks.{n}.attn.{layer}" for n in range(2) for layer in ("qkv", "proj")),
            "audio_projector.net.0",
            "audio_projector.net.2",
            *(f"decoder.model.layers.{n}.mlp.{k}_proj" for n in range(2) for k in ("gate", "up", "down")),
        }

    def test_the_decoders_attention_on_request(self) -> None:
        more = (
            trainable_parameters(trained(lora_attention=True)).keys() - trainable_parameters(trained()).keys()
        )
        layers = {name.split(".lora_")[0].rpartition(".")[2] for name in more}
        assert layers == {"q_proj", "k_proj", "v_proj", "o_proj"}
        assert all(name.startswith("decoder.model.layers.") for name in more)

    @pytest.mark.parametrize("target", ["encoder", "projector", "decoder"])
    @pytest.mark.parametrize("method", ["lora", "full"])
    def test_one_part_alone(self, method: str, target: str) -> None:
        parameters = trainable_parameters(trained(method=method, train_target=[target]))
        assert parameters and {part_of(name) for name in parameters} == {target}

    def test_full_training_leaves_the_normaliser_alone(self) -> None:
        model = trained(method="full")
        parameters = trainable_parameters(model)
        frozen = {name for name, _ in model.named_parameters()} - parameters.keys()
        assert frozen == {
            "audio_encoder.init_bn.weight", "audio_encoder.init_bn.bias", "decoder.model.embed_tokens.weight",
            "decoder.lm_head.weight",
        }  # fmt: skip

    def test_embeddings_and_head_in_full_beside_adapters(self) -> None:
        parameters = trainable_parameters(trained(train_target=["encoder", "embed_tokens", "lm_head"]))
        whole = {name for name in parameters if ".lora_" not in name}
        assert whole == {"decoder.model.embed_tokens.weight", "decoder.lm_head.weight"}

    @pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
    def test_tied_head_and_embeddings_train_as_one(self, target: str) -> None:
        model = trained(train_target=["projector", target], tie=True)
        whole = {name for name in trainable_parameters(model) if ".lora_" not in name}
        assert whole == {"decoder.model.embed_tokens.weight"}
        assert model.decoder.lm_head.weight is model.decoder.model.embed_tokens.weight

    def test_quantised_weights_are_refused_by_name(self, tmp_path: Path) -> None:
        pytest.importorskip("bitsandbytes")
        model = load_model(make_model_folder(tmp_path / "base"), quantization="8bit")
        with pytest.raises(SettingsError, match=r"decoder\.model\.layers.* is quantised"):
            make_trainable(model, settings(method="full"))


class TestValues:
    def test_first_values_depend_on_seed_and_name_alone(self) -> None:
        one, other = trained(), tiny(seed=7)
        torch.manual_seed(123)
        make_trainable(other, settings())
        again, changed = dict(trained_tensors(other)), dict(trained_tensors(trained(seed=43)))
        for name, tensor in trained_tensors(one):
            assert torch.equal(tensor, again[name])
            assert torch.equal(tensor, changed[name]) == name.endswith("lora_B.weight")
        a = again["decoder.model.layers.0.mlp.down_proj.lora_A.weight"]
        assert 0.9 * 64**-0.5 < float(a.abs().max()) <= 64**-0.5
        assert not again["decoder.model.layers.0.mlp.down_proj.lora_B.weight"].any()

    def test_trained_weights_are_float32_whatever_the_base(self) -> None:
        model = trained(dtype=torch.bfloat16, train_target=["decoder", "lm_head"], dora=True)
        assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}
        frozen = {p.dtype for n, p in model.named_parameters() if not p.requires_grad and "init_bn" not in n}
        assert frozen == {torch.bfloat16}

    @pytest.mark.parametrize(
        "changes",
        [{}, {"rslora": True}, {"lora_dropout": 0.3}, {"dora": True}, {"dora": True, "lora_dropout": 0.3}],
    )
    @pytest.mark.parametrize(
        "name", ["decoder.model.layers.0.mlp.up_proj", "audio_encoder.blocks.0.attn.proj"]
    )
    def test_the_own_forward_is_pefts(self, changes: dict[str, Any], name: str) -> None:
        model = trained(**changes)
        lean: Any = model.get_submodule(name)
        torch.nn.init.normal_(lean.lora_B["default"].weight, std=0.5)
        plain = copy.deepcopy(lean)
        plain.__class__ = lora.Linear
        assert type(lean).__name__ == "Linear" and issubclass(type(lean), LoraLinear)
        results = []
        for layer in (lean, plain):
            x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
            torch.manual_seed(5)
            layer.zero_grad()
            result = layer(x)
            result.square().sum().backward()
            results.append([result, x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_dora_begins_as_the_base(self) -> None:
        batch = random_batch(range(3))
        with torch.no_grad():
            base = tiny().eval()(**batch.model_inputs()).loss_sum
            adapted = trained(dora=True).eval()(**batch.model_inputs()).loss_sum
        torch.testing.assert_close(adapted, base)

    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("quantization", ["8bit", "4bit"])
    def test_adapters_over_quantised_layers_learn(
        self, tmp_path: Path, quantization: Any, dora: bool
    ) -> None:
        pytest.importorskip("bitsandbytes")
        model = load_model(make_model_folder(tmp_path / "base"), quantization=quantization)
        make_trainable(model, settings(lora_attention=True, dora=dora))
        layer = model.decoder.model.layers[0].mlp.gate_proj
        assert type(layer).__name__ == {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantization]
        assert isinstance(layer, DoraLinear if dora else LoraLinear)
        parameters = trainable_parameters(model)
        assert not any("quant" in type(p).__name__.lower() for p in parameters.values())
        optimizer = torch.optim.AdamW(parameters.values(), lr=3e-3)
        batch, losses = random_batch(range(4)), []
        model.train()
        for _ in range(4):
            loss = model(**batch.model_inputs()).loss_sum
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        plain = trained(lora_attention=True, dora=dora)
        assert describe_trainable(model) == describe_trainable(plain)

    def test_float32_head_and_embeddings_in_a_bfloat16_model(self) -> None:
        model = trained(dtype=torch.bfloat16, train_target=["encoder", "embed_tokens", "lm_head"])
        model(**random_batch(range(2)).model_inputs()).loss_sum.backward()
        for name in ("decoder.model.embed_tokens.weight", "decoder.lm_head.weight"):
            gradient = trainable_parameters(model)[name].grad
            assert gradient is not None and gradient.dtype == torch.float32 and gradient.any()


class TestFormat:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"rslora": True, "lora_alpha": 3, "lora_attention": True},
            {"dora": True},
            {"train_target": ["encoder", "decoder", "embed_tokens", "lm_head"]},
        ],
    )
    def test_peft_reloads_what_was_trained(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        model = trained(**changes)
        for parameter in trainable_parameters(model).values():
            torch.nn.init.normal_(parameter, std=0.3)
        trained_weights(model, settings(**changes)).write(tmp_path, "somewhere/base")
        read = json.loads((tmp_path / "adapter_config.json").read_text())
        assert read["peft_type"] == "LORA" and read["base_model_name_or_path"] == "somewhere/base"
        theirs = peft.PeftModel.from_pretrained(tiny(), tmp_path)
        batch = random_batch(range(3))
        with torch.no_grad():
            ours = model.eval()(**batch.model_inputs()).loss_sum
            loss = theirs.eval()(**batch.model_inputs()).loss_sum
        torch.testing.assert_close(loss, ours, rtol=1e-5, atol=1e-5)

    def test_names_are_pefts_own(self) -> None:
        theirs = peft.get_peft_model(tiny(), lora_config(settings(dora=True)))
        expected = set(peft.get_peft_model_state_dict(theirs))
        assert {PEFT_PREFIX + name for name, _ in trained_tensors(trained(dora=True))} == expected

    def test_load_trained_restores(self) -> None:
        model, other = trained(), trained(seed=9)
        load_trained(other, dict(trained_tensors(model)))
        for (name, left), (_, right) in zip(trained_tensors(model), trained_tensors(other), strict=True):
            assert torch.equal(left, right), name

    def test_load_trained_names_what_does_not_fit(self) -> None:
        model = trained()
        with pytest.raises(ModelError, match=r"another training.*has the shape \[8, 32\], here \[4, 32\]"):
            load_trained(model, dict(trained_tensors(trained(lora_rank=8))))
        with pytest.raises(ModelError, match=r"audio_projector.*is missing"):
            load_trained(model, dict(trained_tensors(trained(train_target=["encoder"]))))
        with pytest.raises(ModelError, match="is not trained here"):
            load_trained(trained(train_target=["encoder"]), dict(trained_tensors(model)))

    def test_trained_tensors_are_copies(self) -> None:
        model = trained()
        for _, tensor in trained_tensors(model):
            tensor.add_(1.0)
        assert not any(bool((p == 1.0).all()) for p in trainable_parameters(model).values())

    def test_on_the_meta_device_nothing_is_allocated(self, tmp_path: Path) -> None:
        model = build_empty(make_model_folder(tmp_path / "base"), torch.bfloat16)
        make_trainable(model, settings(dora=True, train_target=["decoder", "lm_head"]))
        assert all(parameter.is_meta for parameter in model.parameters())
        assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}
