"""Configuration of MiDashengLM: everything that a published ``config.json`` says, kept as it says it.

The published file has fields of its publisher's own code (``auto_map``, a ``text_config`` of type
``qwen2_5_omni_text`` with mrope sections). They are read here into transformers' own Qwen2 or Qwen3
configuration, and written back exactly as they were found.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, Qwen2Config, Qwen3Config

from mdl_toolkit.errors import ModelError
from mdl_toolkit.family import MODEL_TYPE
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.model_shape import ModelShape

#: Rotary base of decoder families whose published configuration may leave it out.
_DEFAULT_THETA = {"qwen2_5_omni_text": 1_000_000.0}
#: Kinds of rotary embedding that are plain where there are no pictures: the three position rows are equal.
_PLAIN_ROPE = ("default", "mrope")
#: Arguments that transformers hands to a configuration when it loads one, and that no ``config.json`` has.
_OF_A_LOADING = ("name_or_path", "_commit_hash", "attn_implementation", "experts_implementation")
_DROPPED_ROPE_KEYS = ("mrope_section", "mrope_interleaved", "type")


class DashengConfig(PreTrainedConfig):  # type: ignore[misc]
    """The audio encoder and its front end.

    Args:
        embed_dim: Width D.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        mlp_ratio: Width of a block's MLP over D.
        qkv_bias: Whether the fused query-key-value projection has a bias.
        init_values: Start of LayerScale; ``None`` where there is none.
        patch_size: (mel bands, frames) of a patch; a patch spans all mel bands.
        patch_stride: Equal to ``patch_size``.
        input_channels: 1.
        target_length: Frames of a chunk.
        n_mels: Mel bands.
        n_fft: Samples of a Fourier transform.
        win_length: Samples of the Hann window.
        hop_length: Samples between frames.
        sample_rate: In Hz.
        f_min: Lower edge of the first mel band, in Hz.
        f_max: Upper edge of the last one, in Hz; ``None`` is half the sample rate.
        center: Whether frames are centred (always true).
        kwargs: Fields that this code does not know; kept.
    """

    model_type = "midashenglm_dasheng_encoder"

    def __init__(  # noqa: PLR0913, PLR0917 -- the fields of config.json
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_values: float | None = None,
        patch_size: int | list[int] | tuple[int, int] = (64, 4),
        patch_stride: int | list[int] | tuple[int, int] = (64, 4),
        input_channels: int = 1,
        target_length: int = 1008,
        n_mels: int = 64,
        n_fft: int = 512,
        win_length: int = 512,
        hop_length: int = 160,
        sample_rate: int = 16000,
        f_min: float = 0.0,
        f_max: float | None = 8000.0,
        center: bool = True,
        **kwargs: Any,
    ) -> None:
        self.embed_dim, self.depth, self.num_heads = embed_dim, depth, num_heads
        self.mlp_ratio, self.qkv_bias, self.init_values = mlp_ratio, qkv_bias, init_values
        self.patch_size, self.patch_stride = patch_size, patch_stride
        self.input_channels, self.target_length = input_channels, target_length
        self.n_mels, self.n_fft, self.win_length, self.hop_length = n_mels, n_fft, win_length, hop_length
        self.sample_rate, self.f_min, self.f_max, self.center = sample_rate, f_min, f_max, center
        super().__init__(**kwargs)

    @property
    def patch(self) -> tuple[int, int]:
        """(mel bands, frames) of a patch."""
        size = self.patch_size
        return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)

    def check(self) -> None:
        """Refuse shapes that no published encoder has and that the code would get wrong.

        Raises:
            ModelError: Naming the field, its value and what is supported.
        """
        stride = tuple(self.patch_stride) if isinstance(self.patch_stride, (list, tuple)) else None
        problems = [
            text
            for wrong, text in (
                (
                    self.patch[0] != self.n_mels,
                    f"patch_size {self.patch_size} must span all {self.n_mels} mel bands",
                ),
                (
                    stride is not None and stride != self.patch,
                    f"patch_stride {self.patch_stride} must equal patch_size",
                ),
                (self.input_channels != 1, f"input_channels is {self.input_channels}; only 1 is supported"),
                (not self.center, "center is false; only centred frames are supported"),
                (
                    self.embed_dim % self.num_heads,
                    f"embed_dim {self.embed_dim} is no multiple of num_heads {self.num_heads}",
                ),
                (self.win_length > self.n_fft, f"win_length {self.win_length} exceeds n_fft {self.n_fft}"),
            )
            if wrong
        ]
        if problems:
            raise ModelError("config.json, audio_encoder_config: " + "; ".join(problems))


def decoder_config(text: Mapping[str, Any]) -> PreTrainedConfig:
    """Read a published ``text_config`` as transformers' own Qwen2 or Qwen3 configuration.

    For text and audio the three rows of mrope positions are equal, so mrope is plain rotary embedding.

    Args:
        text: The parsed ``text_config``.

    Returns:
        A ``Qwen2Config`` or ``Qwen3Config``.

    Raises:
        ModelError: Where the decoder is of another family.
    """
    fields = copy.deepcopy(dict(text))
    kind = str(fields.pop("model_type", "qwen2"))
    if kind in ("qwen2", "qwen2_5", "qwen2_5_text", "qwen2_5_omni_text"):
        family = Qwen2Config
    elif kind in ("qwen3", "qwen3_text", "qwen3_omni_text"):
        family = Qwen3Config
    else:
        raise ModelError(
            f"config.json: text_config.model_type is {kind!r}; decoders of the Qwen2, Qwen2.5 and Qwen3 "
            "families are supported"
        )
    if fields.get("init_std") is not None:
        fields.setdefault("initializer_range", fields.pop("init_std"))
    rope = {**(fields.pop("rope_scaling", None) or {}), **(fields.pop("rope_parameters", None) or {})}
    theta = rope.pop("rope_theta", None) or fields.pop("rope_theta", None)
    theta = float(theta or _DEFAULT_THETA.get(kind, getattr(family, "default_theta", 10_000.0)))
    fields.pop("rope_theta", None)
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type in _PLAIN_ROPE:
        rope = {"rope_type": "default"}
    else:
        rope = {key: value for key, value in rope.items() if key not in _DROPPED_ROPE_KEYS}
        rope["rope_type"] = rope_type
    for name in [name for name in fields if name in ("auto_map", "architectures") or _names_kernel(name)]:
        del fields[name]
    return family(**fields, rope_parameters={**rope, "rope_theta": theta})


class MiDashengLMConfig(PreTrainedConfig):  # type: ignore[misc]
    """Audio encoder, projector and decoder of a MiDashengLM checkpoint.

    Attributes:
        audio_encoder_config: A :class:`DashengConfig`.
        text_config: A ``Qwen2Config`` or ``Qwen3Config``, from whatever the published file calls it.
        subsample_factor: Patches that the projector joins to one audio token.
        audio_token_id: Id of ``<|AUDIO|>``.
        published: The fields as the published file has them.

    Whatever else the published file says stays and is written back unchanged by ``to_dict``,
    ``to_json_string`` and ``save_pretrained``; only fields that were changed after loading are written with
    their new values.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        audio_encoder_config: Mapping[str, Any] | DashengConfig | None = None,
        text_config: Mapping[str, Any] | PreTrainedConfig | None = None,
        subsample_factor: int = 5,
        audio_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        published = {key: copy.deepcopy(value) for key, value in kwargs.items() if key not in _OF_A_LOADING}
        self.dict_dtype_to_str(published)
        published["audio_encoder_config"] = _as_dict(audio_encoder_config)
        published["text_config"] = _as_dict(text_config)
        published["subsample_factor"], published["audio_token_id"] = subsample_factor, audio_token_id
        published.setdefault("model_type", self.model_type)
        if not isinstance(audio_encoder_config, DashengConfig):
            audio_encoder_config = DashengConfig(**_without_type(audio_encoder_config))
        if not isinstance(text_config, PreTrainedConfig):
            text_config = decoder_config(_with_tie(text_config or {}, kwargs.get("tie_word_embeddings")))
        self.audio_encoder_config = audio_encoder_config
        self.text_config = text_config
        self.subsample_factor = subsample_factor
        self.audio_token_id = audio_token_id
        # Of the publisher's own code; the class attribute of that name belongs to transformers.
        kwargs.pop("model_type", None)
        kwargs = {name: v for name, v in kwargs.items() if not (_names_kernel(name) and "/" in str(v))}
        super().__init__(**kwargs)
        self.published = published
        self._as_read = self._normalised()

    @property
    def geometry(self) -> AudioGeometry:
        """How many frames, patches and audio tokens a clip becomes."""
        return AudioGeometry.from_config(
            {
                "audio_encoder_config": {
                    "sample_rate": self.audio_encoder_config.sample_rate,
                    "hop_length": self.audio_encoder_config.hop_length,
                    "patch_size": list(self.audio_encoder_config.patch),
                    "target_length": self.audio_encoder_config.target_length,
                },
                "subsample_factor": self.subsample_factor,
            }
        )

    @property
    def shape(self) -> ModelShape:
        """Sizes of the layers."""
        audio = ("embed_dim", "depth", "mlp_ratio", "n_mels", "patch_size")
        text = (
            "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "intermediate_size", "vocab_size",
        )  # fmt: skip
        return ModelShape.from_config(
            {
                "audio_encoder_config": {name: getattr(self.audio_encoder_config, name) for name in audio},
                "text_config": {name: getattr(self.text_config, name, None) for name in text},
                "subsample_factor": self.subsample_factor,
            }
        )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a parsed ``config.json``; ``kwargs`` are transformers', and no part of what was published."""
        published = copy.deepcopy(config_dict)
        published.pop("_commit_hash", None)  # older versions of transformers put it in
        made = super().from_dict(config_dict, **kwargs)
        config = made[0] if isinstance(made, tuple) else made
        config.published = published
        return made

    def _normalised(self) -> dict[str, Any]:
        own = ("published", "_as_read", "_name_or_path", *_OF_A_LOADING)
        return {key: value for key, value in super().to_dict().items() if key not in own}

    def to_dict(self) -> dict[str, Any]:
        """The published fields as they were, with those that changed since at their new values."""
        written = copy.deepcopy(self.published)
        _write_changes(written, self._as_read, self._normalised())
        return written

    def to_diff_dict(self) -> dict[str, Any]:
        """The same as :meth:`to_dict`: what was published is never shortened."""
        return self.to_dict()


def _as_dict(config: Mapping[str, Any] | PreTrainedConfig | None) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, PreTrainedConfig):
        return dict(config.to_dict())
    return copy.deepcopy(dict(config))


def _without_type(fields: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        key: value
        for key, value in (fields or {}).items()
        if key not in ("model_type", "auto_map") and not _names_kernel(key)
    }


def _with_tie(text: Mapping[str, Any], tie: Any) -> Mapping[str, Any]:
    """The decoder's fields, with what the top level alone may say of its head; their own word comes first."""
    if tie is None or text.get("tie_word_embeddings") is not None:
        return text
    return {**text, "tie_word_embeddings": tie}


def _names_kernel(field: str) -> bool:
    """Whether a field may name a repository of the Hub whose compiled code transformers would run."""
    return field.endswith(("_implementation", "_implementation_internal"))


def _write_changes(written: dict[str, Any], then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key, value in now.items():
        if key in then and then[key] == value:
            continue
        if isinstance(value, dict) and isinstance(then.get(key), dict) and isinstance(written.get(key), dict):
            _write_changes(written[key], then[key], value)
        elif key == "dtype" and "torch_dtype" in written:
            written["torch_dtype"] = value
        else:
            written[key] = copy.deepcopy(value)
