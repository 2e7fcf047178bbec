"""A complete tiny model folder with random weights, in the shape of the published ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mdl_toolkit

TOKENIZER_FOLDER = Path(mdl_toolkit.__file__).parent / "demo" / "tiny"
CARRIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

#: Stands in for the publisher's code: whoever runs it has broken a promise.
PUBLISHER_CODE = 'raise SystemExit("code of a model folder was executed")\n'
AUTO_MAP = {
    "AutoConfig": "configuration_midashenglm.MiDashengLMConfig",
    "AutoModel": "modeling_midashenglm.MiDashengLMModel",
    "AutoModelForCausalLM": "modeling_midashenglm.MiDashengLMModel",
}
#: ``audio_encoder_config`` of a published configuration, but for width and depth.
ENCODER: dict[str, Any] = {
    "attn_drop_rate": 0.0,
    "center": True,
    "depth": 2,
    "drop_rate": 0.0,
    "embed_dim": 32,
    "f_max": 8000,
    "f_min": 0,
    "hop_length": 160,
    "init_values": None,
    "input_channels": 1,
    "mlp_ratio": 4.0,
    "model_type": "midashenglm_dasheng_encoder",
    "n_fft": 512,
    "n_mels": 64,
    "num_heads": 4,
    "outputdim": 527,
    "patch_size": [64, 4],
    "patch_stride": [64, 4],
    "qkv_bias": True,
    "sample_rate": 16000,
    "target_length": 1008,
    "win_length": 512,
}


#: Sizes of the published 7B model, for :func:`tiny_config`.
SEVEN_BILLION: dict[str, Any] = {
    "audio_encoder_config": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    "text_config": {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064,
    },
}  # fmt: skip


def _specials() -> dict[str, int]:
    tokenizer = json.loads((TOKENIZER_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def tiny_config(decoder: str = "qwen2", tie: bool = False, **overrides: Any) -> dict[str, Any]:
    """A published ``config.json`` in small.

    Args:
        decoder: ``qwen2`` (as the 7B checkpoints have it) or ``qwen3`` (as the 0.6B).
        tie: Whether head and embeddings are one tensor.
        overrides: Top-level fields; dictionaries are merged into the defaults.
    """
    specials = _specials()
    config: dict[str, Any] = {
        "architectures": ["MiDashengLMModel"],
        "audio_encoder_config": dict(ENCODER),
        "audio_token_id": specials["<|AUDIO|>"],
        "auto_map": dict(AUTO_MAP),
        "model_type": "midashenglm",
        "subsample_factor": 5,
        "text_config": _decoder_config(decoder, tie, vocabulary=max(specials.values()) + 1),
        "torch_dtype": "float32",
        "transformers_version": "4.52.1",
    }
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            config[key] = {**config[key], **value}
        else:
            config[key] = value
    return config


def _decoder_config(decoder: str, tie: bool, vocabulary: int) -> dict[str, Any]:
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.1,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": tie,
        "use_cache": True,
    }
    if decoder == "qwen3":
        return common | {"model_type": "qwen3", "head_dim": 16, "attention_bias": False, "rope_scaling": None}
    return common | {
        "model_type": "qwen2_5_omni_text",
        "init_std": 0.02,
        "rope_scaling": {"mrope_section": [1, 2, 1], "rope_type": "default", "type": "default"},
    }


def make_model_folder(
    path: Path, *, seed: int = 0, decoder: str = "qwen2", tie: bool = False, **overrides: Any
) -> Path:
    """Write a complete tiny model folder: config, weights, tokenizer, template, and the publisher's code.

    The weights carry exactly the published tensor names, the two recomputed constants of the front end too.

    Args:
        path: The folder; made where it isn't there.
        seed: Of the random weights.
        decoder: ``qwen2`` or ``qwen3``.
        tie: Whether head and embeddings are one tensor (the head is then left out, as published).
        overrides: As for :func:`tiny_config`.

    Returns:
        ``path``.
    """
    import torch
    from safetensors.torch import save_file

    from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel

    path.mkdir(parents=True, exist_ok=True)
    fields = tiny_config(decoder, tie, **overrides)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MiDashengLMModel(MiDashengLMConfig(**fields))
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tie and name == "decoder.lm_head.weight":
            continue
        if name.endswith("running_mean"):
            tensor = torch.randn(tensor.shape, generator=generator) * 5 - 20
        elif name.endswith("running_var"):
            tensor = torch.rand(tensor.shape, generator=generator) * 200 + 100
        elif tensor.is_floating_point() and ("norm" in name or name.endswith("bias") or "init_bn" in name):
            tensor = tensor + torch.randn(tensor.shape, generator=generator) * 0.1
        tensors[name] = tensor.contiguous().clone()
    window, filters = model.audio_encoder.front_end.constants(torch.device("cpu"))
    tensors["audio_encoder.front_end.0.spectrogram.window"] = window.clone()
    tensors["audio_encoder.front_end.0.mel_scale.fb"] = filters.clone()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    _write_other_files(path, fields)
    return path


def in_bfloat16(folder: Path) -> Path:
    """Turn the weights of a model folder into bfloat16, but for the front end's, and give the folder."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    kept = ("audio_encoder.init_bn.", "audio_encoder.front_end.")
    half = {name: t if name.startswith(kept) else t.to(torch.bfloat16) for name, t in tensors.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}), encoding="utf-8")
    return folder


def _write_other_files(path: Path, fields: dict[str, Any]) -> None:
    specials = _specials()
    for name in CARRIED:
        shutil.copyfile(TOKENIZER_FOLDER / name, path / name)
    documents = {
        "config.json": fields,
        "generation_config.json": {
            "eos_token_id": [specials["<|im_end|>"], specials["<|endoftext|>"]],
            "pad_token_id": specials["<|endoftext|>"],
        },
        "preprocessor_config.json": {
            **json.loads((TOKENIZER_FOLDER / "preprocessor_config.json").read_text(encoding="utf-8")),
            "auto_map": {"AutoProcessor": "processing_midashenglm.MiDashengLMProcessor"},
        },
        "processor_config.json": {
            "auto_map": {"AutoProcessor": "processing_midashenglm.MiDashengLMProcessor"},
            "processor_class": "MiDashengLMProcessor",
        },
    }
    for name, document in documents.items():
        (path / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for module in ("configuration", "modeling", "processing"):
        (path / f"{module}_midashenglm.py").write_text(PUBLISHER_CODE, encoding="utf-8")
