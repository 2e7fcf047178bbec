"""The inside of transformers' Qwen2 and Qwen3 models: what their parts are called and made of."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from transformers import Qwen2ForCausalLM

from mdl_toolkit.compat import unknown_interface

#: The argument that a decoder takes its key-value cache by: ``cache`` since 5.24, ``past_key_values`` before.
CACHE_NAME = (
    "cache" if "cache" in inspect.signature(Qwen2ForCausalLM.forward).parameters else "past_key_values"
)
_LAYERS = ("Qwen2DecoderLayer", "Qwen3DecoderLayer")
_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_NORMS = ("Qwen2RMSNorm", "Qwen3RMSNorm")


def check_decoder(decoder: nn.Module) -> None:
    """Refuse a decoder that isn't built of the parts that this package expects.

    transformers has public ways to the embeddings and the head (``get_input_embeddings``) and none to the
    layers, which sharding, packed forwards and compilation need one by one. There is no fall-back.

    Raises:
        ModelError: Naming the part that is missing and transformers' version.
    """
    for name in ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"):
        try:
            decoder.get_submodule(name)
        except AttributeError:
            raise unknown_interface(
                "transformers",
                f"builds {type(decoder).__name__} without {name}",
                "install a version that was tested",
            ) from None


def use_attention(decoder: Any, name: str) -> None:
    """Let a decoder attend by a function that was registered with ``AttentionInterface``.

    The public way is ``set_attn_implementation``, which reads transformers' source files to find out whether
    it may, and where there are none (a frozen program) only logs that it did nothing: packed rows would then
    attend to each other. It is the fall-back where the configuration has no ``_attn_implementation``.
    """
    if hasattr(decoder.config, "_attn_implementation"):
        decoder.config._attn_implementation = name  # noqa: SLF001
    else:
        decoder.set_attn_implementation(name)


def recompute_activations(model: Any, enable: bool) -> None:
    """Let the repeated layers of a model keep no activations and compute again in the backward pass, or not.

    By transformers' public switch, which had another name before 5.24. It also makes the token embeddings
    ask for gradients, which costs a backward pass through everything below the first adapter and is needed
    for reentrant checkpoints alone; that is taken back.
    """
    new, old = (
        f"{kind}_checkpointing_{'enable' if enable else 'disable'}" for kind in ("activation", "gradient")
    )
    switch = getattr(model, new, None) or getattr(model, old)
    if enable:
        switch({"use_reentrant": False})
        model.disable_input_require_grads()
    else:
        switch()


def is_prenorm_layer(layer: nn.Module) -> bool:
    """Whether a decoder layer is attention and MLP, each after a norm, and nothing else.

    The public way is the layer's own forward, which computes every position. Fall-back of the caller: that.
    """
    parts = {name for name, _ in layer.named_children()}
    return type(layer).__name__ in _LAYERS and parts == _LAYER_PARTS


def rms_norms(module: nn.Module) -> list[Any]:
    """Transformers' root-mean-square norms inside: of a ``weight`` and a ``variance_epsilon``, nothing else.

    The public way is ``torch.nn.RMSNorm``, which rounds elsewhere in bfloat16, so that a model would compute
    otherwise than in transformers. Fall-back of the caller: transformers' own forward.
    """
    return [
        layer
        for layer in module.modules()
        if type(layer).__name__ in _NORMS
        and {name for name, _ in layer.named_parameters()} == {"weight"}
        and isinstance(getattr(layer, "variance_epsilon", None), float)
    ]
