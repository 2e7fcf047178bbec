"""What is expected of the inside of the library's decoders, and what happens where it is otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mdl_toolkit.compat import transformers_decoder as compat
from mdl_toolkit.compat.transformers_decoder import (
    CACHE_NAME,
    check_decoder,
    is_prenorm_layer,
    recompute_activations,
    rms_norms,
    use_attention,
)
from mdl_toolkit.errors import ModelError
from mdl_toolkit.model.kernels import last_layer, norm
from mdl_toolkit.model.kernels.attention import PACKED_ATTENTION
from mdl_toolkit.model.midashenglm import MiDashengLMModel
from support.models.batches import random_batch
from support.models.tiny import make_model_folder

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "head_dim": 8,
}  # fmt: skip
DECODERS: dict[str, Any] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
}


@pytest.fixture(params=["qwen2", "qwen3"])
def decoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return DECODERS[request.param]()


@pytest.fixture(params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    return make_model_folder(tmp_path / "model", decoder=request.param)


def test_the_decoders_are_built_as_expected(decoder: Any) -> None:
    check_decoder(decoder)
    assert all(is_prenorm_layer(layer) for layer in decoder.model.layers)
    norms = [module for name, module in decoder.named_modules() if name.endswith("norm")]
    assert len(norms) >= 5 and rms_norms(decoder) == norms


@pytest.mark.parametrize("part", ["model.layers", "model.rotary_emb", "lm_head"])
def test_a_missing_part_is_named(decoder: Any, part: str) -> None:
    owner, _, leaf = part.rpartition(".")
    delattr(decoder.get_submodule(owner), leaf)
    with pytest.raises(ModelError, match=rf"transformers \S+ builds Qwen.* without {part} \("):
        check_decoder(decoder)


def test_the_cache_has_this_name(decoder: Any) -> None:
    ids = torch.arange(4)[None]
    cache = getattr(decoder(ids[:, :3], use_cache=True), CACHE_NAME)
    assert cache.get_seq_length() == 3
    last = decoder(ids[:, 3:], **{CACHE_NAME: cache}).logits
    torch.testing.assert_close(last, decoder(ids).logits[:, 3:])


def test_masks_may_come_as_a_dictionary(decoder: Any) -> None:
    ids = torch.arange(6)[None]
    everything = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    masked = {
        name: decoder(ids, attention_mask={"full_attention": mask, "sliding_attention": None}).logits
        for name, mask in (("causal", everything.tril()), ("free", everything))
    }
    plain = decoder(ids).logits
    torch.testing.assert_close(masked["causal"], plain)
    assert not torch.allclose(masked["free"], plain)  # the library has built no mask of its own


class TestAttention:
    """The decoder attends by the registered function, privately or publicly told."""

    def test_both_ways_choose_it(self, decoder: Any) -> None:
        other = DECODERS[decoder.config.model_type]()
        use_attention(decoder, PACKED_ATTENTION)
        other.set_attn_implementation(PACKED_ATTENTION)
        for one in (decoder, other):
            assert one.config._attn_implementation == PACKED_ATTENTION
            assert one.model.layers[0].self_attn.config is one.config

    def test_where_the_attribute_is_gone_the_public_way_is_taken(self) -> None:
        class Config:
            pass

        class Decoder:
            config, asked = Config(), ""

            def set_attn_implementation(self, name: str) -> None:
                self.asked = name

        decoder = Decoder()
        use_attention(decoder, PACKED_ATTENTION)
        assert decoder.asked == PACKED_ATTENTION


class TestRecomputedActivations:
    @pytest.mark.parametrize("old", [False, True])
    def test_the_librarys_switch_by_either_name(
        self, decoder: Any, old: bool, monkeypatch: pytest.MonkeyPatch, recwarn: Any
    ) -> None:
        if old:
            for name in ("activation_checkpointing_enable", "activation_checkpointing_disable"):
                monkeypatch.delattr(PreTrainedModel, name, raising=False)
            own = {"enable": True, "disable": False}
            for what, on in own.items():
                monkeypatch.setattr(
                    PreTrainedModel,
                    f"gradient_checkpointing_{what}",
                    lambda self, kwargs=None, on=on: self._set_gradient_checkpointing(on),
                )
        switched = []
        for enable in (True, False):
            recompute_activations(decoder, enable)
            switched.append([layer.gradient_checkpointing for layer in decoder.model.layers])
        assert switched == [[True, True], [False, False]]
        assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]

    def test_embeddings_ask_for_no_gradients(self, decoder: Any) -> None:
        decoder.requires_grad_(False).train()
        recompute_activations(decoder, True)
        assert not decoder.get_input_embeddings()(torch.arange(3)).requires_grad


def loss_of(model: Any) -> Tensor:
    with torch.no_grad():
        loss: Tensor = model(**random_batch(range(3)).model_inputs()).loss_sum
    return loss


class TestFallBacks:
    """Layers that are built otherwise keep the library's own forward, and the numbers are the same."""

    def test_a_last_layer_of_another_make(self, folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = MiDashengLMModel.from_pretrained(folder)
        monkeypatch.setattr(compat, "_LAYER_PARTS", {"attention"})
        librarys = MiDashengLMModel.from_pretrained(folder)
        assert last_layer.keeps_rows(ours.decoder.model.layers[-1])
        assert not last_layer.keeps_rows(librarys.decoder.model.layers[-1])
        torch.testing.assert_close(loss_of(librarys), loss_of(ours))

    def test_norms_of_another_make(self, folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = MiDashengLMModel.from_pretrained(folder)
        norm.use_own_norms(ours)
        monkeypatch.setattr(compat, "_NORMS", ())
        librarys = MiDashengLMModel.from_pretrained(folder)
        norm.use_own_norms(librarys)
        kinds = [type(model.decoder.model.norm) for model in (ours, librarys)]
        assert issubclass(kinds[0], norm.OwnRMSNorm) and not issubclass(kinds[1], norm.OwnRMSNorm)
        torch.testing.assert_close(loss_of(librarys), loss_of(ours))

    def test_a_norm_with_a_further_tensor_is_left_alone(self, decoder: Any) -> None:
        decoder.model.norm.bias = nn.Parameter(torch.zeros(32))
        assert decoder.model.norm not in rms_norms(decoder)
