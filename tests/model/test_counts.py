"""The 7B model on the meta device: what must come out exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel

PUBLISHED_7B: dict[str, Any] = {
    "model_type": "midashenglm",
    "architectures": ["MiDashengLMModel"],
    "subsample_factor": 5,
    "audio_token_id": 151646,
    "audio_encoder_config": {
        "model_type": "midashenglm_dasheng_encoder",
        "embed_dim": 1280,
        "depth": 32,
        "num_heads": 16,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "init_values": None,
        "patch_size": [64, 4],
        "patch_stride": [64, 4],
        "input_channels": 1,
        "target_length": 1008,
    },
    "text_config": {
        "model_type": "qwen2_5_omni_text",
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    },
}
#: Recomputed, so part of published state dicts and not of ours.
CONSTANTS = ("audio_encoder.front_end.0.mel_scale.fb", "audio_encoder.front_end.0.spectrogram.window")


@pytest.fixture(scope="module")
def model():
    with torch.device("meta"):
        return MiDashengLMModel(MiDashengLMConfig(**PUBLISHED_7B))


def test_parameters(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_281_739_904


def test_tensors(model):
    names = [*model.state_dict(), *CONSTANTS]
    assert len(set(names)) == 740
    encoder = [name for name in names if name.startswith("audio_encoder.")]
    assert len(encoder) == 397
    buffers = {name for name, _ in model.audio_encoder.named_buffers()}
    assert buffers == {"init_bn.running_mean", "init_bn.running_var", "init_bn.num_batches_tracked"}
    assert len([name for name in names if name.startswith("audio_projector.")]) == 4
    assert len([name for name in names if name.startswith("decoder.")]) == 339


def test_shapes(model):
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {
        "audio_encoder.init_bn.running_var": (64,),
        "audio_encoder.patch_embed.proj.weight": (1280, 1, 64, 4),
        "audio_encoder.time_pos_embed": (1, 1280, 1, 252),
        "audio_encoder.freq_pos_embed": (1, 1280, 1, 1),
        "audio_encoder.blocks.31.attn.qkv.weight": (3840, 1280),
        "audio_encoder.blocks.0.attn.proj.bias": (1280,),
        "audio_encoder.blocks.0.mlp.fc1.weight": (5120, 1280),
        "audio_encoder.blocks.0.mlp.fc2.weight": (1280, 5120),
        "audio_encoder.norm.weight": (1280,),
        "audio_projector.net.0.weight": (3584, 6400),
        "audio_projector.net.2.weight": (3584, 3584),
        "decoder.lm_head.weight": (152064, 3584),
        "decoder.model.embed_tokens.weight": (152064, 3584),
    }
    assert expected.items() <= shapes.items()
    assert not [name for name in shapes if ".ls1." in name]


def test_lora_on_the_default_targets(model):
    targets = r"audio_encoder\..*attn\.(qkv|proj)|audio_projector\.net\.[02]|decoder\..*(gate|up|down)_proj"
    frozen = model.requires_grad_(False)
    adapted = inject_adapter_in_model(LoraConfig(r=32, target_modules=targets), frozen)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 68_968_448


def test_the_06b_shape_is_tied_as_its_config_says():
    text = {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
        "rope_theta": 1000000,
    }
    counts = {}
    for tie in (True, False):
        with torch.device("meta"):
            config = MiDashengLMConfig(
                **{**PUBLISHED_7B, "text_config": {**text, "tie_word_embeddings": tie}}
            )
            decoder = MiDashengLMModel(config).decoder
        assert (decoder.lm_head.weight is decoder.model.embed_tokens.weight) == tie
        counts[tie] = sum(parameter.numel() for parameter in decoder.parameters())
    assert counts == {True: 596_049_920, False: 596_049_920 + 151936 * 1024}
