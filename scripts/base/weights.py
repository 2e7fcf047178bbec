"""Weights for the small base model to start from."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from scripts.base.config import (
    DECODER_DEPTH,
    DECODER_HEADS,
    DECODER_KV_HEADS,
    DECODER_MLP,
    DECODER_WIDTH,
    ENCODER_DEPTH,
    ENCODER_WIDTH,
    SUBSAMPLE,
)
from scripts.base.tokenizer import VOCAB_SIZE

Floats: TypeAlias = NDArray[np.float32]


class _Draw:
    """Draws the weights of one layer after the other.

    Attributes:
        weights: What has been drawn, by published name.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.weights: dict[str, NDArray[np.generic]] = {}

    def normal(self, name: str, *shape: int, std: float = 0.02) -> None:
        self.weights[name] = self._random.normal(0, std, shape).astype(np.float32)

    def linear(self, name: str, rows: int, columns: int, bias: bool = True, layers: int = 0) -> None:
        # What is added to the residual stream starts small where many layers add to it.
        self.normal(f"{name}.weight", rows, columns, std=(1 / (columns * max(1, 2 * layers))) ** 0.5)
        if bias:
            self.weights[f"{name}.bias"] = np.zeros(rows, np.float32)

    def norm(self, name: str, width: int, bias: bool = True) -> None:
        self.weights[f"{name}.weight"] = np.ones(width, np.float32)
        if bias:
            self.weights[f"{name}.bias"] = np.zeros(width, np.float32)


def random_weights(seed: int, mean_db: Floats, spread_db: Floats) -> dict[str, NDArray[np.generic]]:
    """Weights to start from, float32, by their published names.

    Args:
        seed: Seed of the draw.
        mean_db: ``[64]`` typical level of each mel band in dB, which the frozen ``init_bn`` subtracts.
        spread_db: ``[64]`` their typical spread, by which it divides.
    """
    draw = _Draw(seed)
    _draw_encoder(draw, mean_db, spread_db)
    draw.linear("audio_projector.net.0", DECODER_WIDTH, SUBSAMPLE * ENCODER_WIDTH)
    draw.linear("audio_projector.net.2", DECODER_WIDTH, DECODER_WIDTH)
    _draw_decoder(draw)
    return draw.weights


def _draw_encoder(draw: _Draw, mean_db: Floats, spread_db: Floats) -> None:
    width, encoder = ENCODER_WIDTH, "audio_encoder"
    draw.norm(f"{encoder}.init_bn", 64)
    draw.weights[f"{encoder}.init_bn.running_mean"] = mean_db.astype(np.float32)
    draw.weights[f"{encoder}.init_bn.running_var"] = (spread_db**2).astype(np.float32)
    draw.weights[f"{encoder}.init_bn.num_batches_tracked"] = np.array(1, np.int64)
    draw.normal(f"{encoder}.patch_embed.proj.weight", width, 1, 64, 4, std=(1 / 256) ** 0.5)
    draw.weights[f"{encoder}.patch_embed.proj.bias"] = np.zeros(width, np.float32)
    draw.weights[f"{encoder}.time_pos_embed"] = np.ascontiguousarray(_waves(252, width).T[None, :, None])
    draw.normal(f"{encoder}.freq_pos_embed", 1, width, 1, 1)
    for block in (f"{encoder}.blocks.{index}" for index in range(ENCODER_DEPTH)):
        draw.norm(f"{block}.norm1", width)
        draw.linear(f"{block}.attn.qkv", 3 * width, width)
        draw.linear(f"{block}.attn.proj", width, width, layers=ENCODER_DEPTH)
        draw.norm(f"{block}.norm2", width)
        draw.linear(f"{block}.mlp.fc1", 4 * width, width)
        draw.linear(f"{block}.mlp.fc2", width, 4 * width, layers=ENCODER_DEPTH)
    draw.norm(f"{encoder}.norm", width)


def _draw_decoder(draw: _Draw) -> None:
    width, mlp = DECODER_WIDTH, DECODER_MLP
    keys = width // DECODER_HEADS * DECODER_KV_HEADS
    draw.normal("decoder.model.embed_tokens.weight", VOCAB_SIZE, width, std=0.5)
    for layer in (f"decoder.model.layers.{index}" for index in range(DECODER_DEPTH)):
        draw.norm(f"{layer}.input_layernorm", width, bias=False)
        draw.norm(f"{layer}.post_attention_layernorm", width, bias=False)
        draw.linear(f"{layer}.self_attn.q_proj", width, width)
        draw.linear(f"{layer}.self_attn.k_proj", keys, width)
        draw.linear(f"{layer}.self_attn.v_proj", keys, width)
        draw.linear(f"{layer}.self_attn.o_proj", width, width, bias=False, layers=DECODER_DEPTH)
        draw.linear(f"{layer}.mlp.gate_proj", mlp, width, bias=False)
        draw.linear(f"{layer}.mlp.up_proj", mlp, width, bias=False)
        draw.linear(f"{layer}.mlp.down_proj", width, mlp, bias=False, layers=DECODER_DEPTH)
    draw.norm("decoder.model.norm", width, bias=False)
    draw.normal("decoder.lm_head.weight", VOCAB_SIZE, width)


def _waves(places: int, width: int) -> Floats:
    """Sines and cosines of many rates, ``[places, width]``: by these the encoder tells positions apart."""
    rates = np.pi * 0.004 ** np.linspace(0, 1, width // 2)
    angles = np.arange(places)[:, None] * rates[None]
    return (0.5 * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)).astype(np.float32)
