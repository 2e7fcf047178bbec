"""The Dasheng audio encoder on packed patches: no padding, each chunk of a clip by itself.

Dimensions: P patches of all clips, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from mdl_toolkit.model.config import DashengConfig
from mdl_toolkit.model.frontend import FrozenBatchNorm, MelFrontend, no_autocast
from mdl_toolkit.model.kernels.attention import Packing, packed_attention
from mdl_toolkit.model.kernels.linear import linear
from mdl_toolkit.model.layout import ClipLayout

LAYER_NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """Patches to vectors: a convolution whose kernel is its stride, done as a matrix product."""

    def __init__(self, config: DashengConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.input_channels, config.embed_dim, config.patch, config.patch)

    def forward(self, mel: Tensor) -> Tensor:
        """``mel`` [P · frames of a patch, bands] → [P, D], in the dtype of the weights."""
        bands, frames = self.proj.kernel_size
        weight = self.proj.weight
        patches = mel.to(weight.dtype).view(-1, frames, bands).transpose(1, 2).flatten(1)
        return linear(patches, weight.flatten(1), self.proj.bias)


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [P, D] → [P, D]."""
        return x * self.gamma


class Attention(nn.Module):
    """Full attention within each chunk, with fused projections."""

    def __init__(self, config: DashengConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """``x`` [P, D] → [P, D]."""
        query, key, value = self.qkv(x).view(x.shape[0], 3, self.num_heads, -1).unbind(1)
        return self.proj(packed_attention(query, key, value, packing).flatten(1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, config: DashengConfig) -> None:
        super().__init__()
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, hidden)
        self.fc2 = nn.Linear(hidden, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [P, D] → [P, D]."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class EncoderBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    """A pre-norm transformer block."""

    def __init__(self, config: DashengConfig) -> None:
        super().__init__()
        width, scale = config.embed_dim, config.init_values
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(config)
        self.ls1 = nn.Identity() if scale is None else LayerScale(width, scale)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(config)
        self.ls2 = nn.Identity() if scale is None else LayerScale(width, scale)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """``x`` [P, D] → [P, D]; ``packing`` says where chunks begin and which patches may be attended to."""
        x = x + self.ls1(self.attn(self.norm1(x), packing))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class DashengEncoder(nn.Module):
    """Front end, patches and transformer.

    Args:
        config: Shapes and front end.
    """

    def __init__(self, config: DashengConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        chunk = config.target_length // config.patch[1]
        self.front_end = MelFrontend(config)
        self.init_bn = FrozenBatchNorm(config.n_mels)
        self.patch_embed = PatchEmbed(config)
        self.time_pos_embed = nn.Parameter(torch.zeros(1, config.embed_dim, 1, chunk))
        self.freq_pos_embed = nn.Parameter(torch.zeros(1, config.embed_dim, 1, 1))
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPS)

    def forward(self, waveform: Tensor, layout: ClipLayout) -> Tensor:
        """Features of every patch.

        Args:
            waveform: [S] float32, the clips end to end, each of ``layout.samples`` samples.
            layout: The layout of these clips.

        Returns:
            [P, D] in the dtype of the weights, chunk after chunk, clip after clip.
        """
        mel = self.front_end(waveform, layout)
        with no_autocast(waveform.device):
            mel = self.init_bn(mel)
        x = self.patch_embed(mel)
        positions = (self.time_pos_embed + self.freq_pos_embed)[0, :, 0].t()
        x = x + positions.index_select(0, layout.positions)
        packing = Packing.build(layout.chunk_patches, x.device, key_lengths=layout.chunk_valid)
        for block in self.blocks:
            x = block(x, packing)
        return self.norm(x)  # type: ignore[no-any-return]
