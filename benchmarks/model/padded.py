"""The model as published models compute it: a batch's clips padded to the longest through the whole encoder.

What the public 0.1.0 is measured with; the numbers are the same as this project's, the work isn't.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mdl_toolkit.geometry import MIN_SAMPLES
from mdl_toolkit.model.kernels.linear import Linear
from mdl_toolkit.model.layout import ClipLayout
from mdl_toolkit.model.midashenglm import MiDashengLMModel


class MiDashengLMPadded(MiDashengLMModel):
    """Takes the place of the publisher's model class in a folder that 0.1.0 runs."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        plain_products(self)

    def encode_audio(self, waveform: Tensor, audio_samples: Sequence[int]) -> Tensor:
        clips = list(torch.split(waveform.float(), list(audio_samples)))
        return padded_features(self, clips, self.training and self.is_gradient_checkpointing)


def plain_products(model: nn.Module) -> None:
    """Let linear layers multiply as torch's own do."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear  # type: ignore[assignment]


def padded_features(model: Any, clips: list[Tensor], recompute: bool) -> Tensor:
    """Audio features of clips of at most one chunk, end to end, without those of the padding.

    Args:
        model: This project's.
        clips: Waveforms.
        recompute: Whether blocks are computed again in the backward pass.
    """
    encoder, geometry = model.audio_encoder, model.geometry
    samples = [max(len(clip), MIN_SAMPLES) for clip in clips]
    padded = torch.stack([F.pad(clip, (0, max(samples) - len(clip))) for clip in clips])
    layout = ClipLayout.build([max(samples)] * len(clips), geometry, encoder.config.n_fft, padded.device)
    x = encoder.patch_embed(encoder.init_bn(encoder.front_end(padded.flatten(), layout)))
    positions = (encoder.time_pos_embed + encoder.freq_pos_embed)[0, :, 0].t()
    x = (x + positions.index_select(0, layout.positions)).view(len(clips), -1, x.shape[-1])
    valid = torch.tensor([geometry.valid_patches(n) for n in samples])
    mask = (torch.arange(x.shape[1])[None] < valid[:, None])[:, None, None]
    for block in encoder.blocks:
        x = checkpoint(_block, block, x, mask, use_reentrant=False) if recompute else _block(block, x, mask)
    x = encoder.norm(x)
    size = model.config.subsample_factor
    joined = x[:, : x.shape[1] // size * size].reshape(x.shape[0], -1, size * x.shape[-1])
    net = model.audio_projector.net
    features = net[2](F.gelu(net[0](joined)))
    counts = [geometry.audio_tokens(n) for n in samples]
    return torch.cat([row[:count] for row, count in zip(features, counts, strict=True)])


def _block(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    batch, length, width = x.shape
    joined = block.attn.qkv(block.norm1(x)).view(batch, length, 3, block.attn.num_heads, -1)
    query, key, value = joined.permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    x = x + block.attn.proj(out.transpose(1, 2).reshape(batch, length, width))
    return x + block.mlp(block.norm2(x))
