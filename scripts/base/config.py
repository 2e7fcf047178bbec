"""The small base model's configuration, and the other files beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from scripts.base.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, VOCAB_SIZE

ENCODER_WIDTH, ENCODER_DEPTH, ENCODER_HEADS = 192, 5, 6
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS, DECODER_KV_HEADS, DECODER_MLP = 160, 3, 4, 2, 480
SUBSAMPLE = 5

_ENCODER_CONFIG: dict[str, Any] = {
    "model_type": "midashenglm_dasheng_encoder",
    "embed_dim": ENCODER_WIDTH,
    "depth": ENCODER_DEPTH,
    "num_heads": ENCODER_HEADS,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "init_values": None,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "input_channels": 1,
    "patch_size": [64, 4],
    "patch_stride": [64, 4],
    "target_length": 1008,
    "n_mels": 64,
    "n_fft": 512,
    "win_length": 512,
    "hop_length": 160,
    "sample_rate": 16000,
    "f_min": 0,
    "f_max": 8000,
    "center": True,
}
_DECODER_CONFIG: dict[str, Any] = {
    "model_type": "qwen2_5_omni_text",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": DECODER_WIDTH,
    "intermediate_size": DECODER_MLP,
    "num_hidden_layers": DECODER_DEPTH,
    "num_attention_heads": DECODER_HEADS,
    "num_key_value_heads": DECODER_KV_HEADS,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "max_window_layers": DECODER_DEPTH,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": {"mrope_section": [4, 8, 8], "rope_type": "default", "type": "default"},
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "sliding_window": 8192,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "use_cache": True,
}
_FRONT_END: dict[str, Any] = {
    "do_normalize": False,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "MiDashengLMProcessor",
    "return_attention_mask": True,
    "sampling_rate": 16000,
}


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """``config.json`` in the published checkpoints' shape, with this model's sizes."""
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    return {
        "architectures": ["MiDashengLMModel"],
        "model_type": "midashenglm",
        "audio_encoder_config": _ENCODER_CONFIG,
        "text_config": {**_DECODER_CONFIG, "eos_token_id": end, "pad_token_id": pad},
        "subsample_factor": SUBSAMPLE,
        "audio_token_id": tokenizer.token_to_id("<|AUDIO|>"),
        "eos_token_id": end,
        "pad_token_id": pad,
        "torch_dtype": "bfloat16",
    }


def write_text_files(folder: Path, tokenizer: Tokenizer) -> None:
    """Write everything of a model folder but its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    described = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "audio_token": "<|AUDIO|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 8192,
        "pad_token": "<|endoftext|>",
        "processor_class": "MiDashengLMProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True,
            }
            for token in SPECIAL_TOKENS
        },
    }  # fmt: skip
    generation = {"do_sample": False, "eos_token_id": [end, pad], "pad_token_id": pad}
    for name, content in {
        "config.json": model_config(tokenizer),
        "tokenizer_config.json": described,
        "preprocessor_config.json": _FRONT_END,
        "generation_config.json": generation,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
