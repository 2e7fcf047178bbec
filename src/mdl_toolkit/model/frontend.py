"""The audio front end: waveforms to normalised log-mel frames, in float32 whatever the model's dtype.

Periodic Hann window, centred frames with reflection at each clip's own ends, power spectrum, HTK mel bands
without area normalisation, decibels with a floor of 1e-10 and of 120 dB under the clip's own maximum.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mdl_toolkit.compat.torch_modules import Float32Module
from mdl_toolkit.model.config import DashengConfig
from mdl_toolkit.model.layout import ClipLayout

#: Floor of the power before the logarithm, and the dynamic range kept under a clip's loudest bin.
POWER_FLOOR = 1e-10
RANGE_DB = 120.0


def mel_filters(
    n_freqs: int, n_mels: int, sample_rate: int, f_min: float, f_max: float
) -> NDArray[np.float64]:
    """Triangular filters on the HTK mel scale, each with a peak of 1.

    Args:
        n_freqs: Bins of the power spectrum, from 0 Hz to half the sample rate.
        n_mels: Filters.
        sample_rate: In Hz.
        f_min: Lower edge of the first filter, in Hz.
        f_max: Upper edge of the last filter, in Hz.

    Returns:
        Weights of shape [n_freqs, n_mels].
    """
    low, high = (2595.0 * math.log10(1.0 + edge / 700.0) for edge in (f_min, f_max))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, n_mels + 2) / 2595.0) - 1.0)
    bins = np.linspace(0.0, sample_rate // 2, n_freqs)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A block in which mixed precision does nothing on a device."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class FrozenBatchNorm(Float32Module):
    """Normalises mel bands with stored statistics, in training too, and never updates them.

    The tensors are those of ``BatchNorm2d``; all are float32.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(features, dtype=torch.float32))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(features, dtype=torch.float32))
        self.register_buffer("running_var", torch.ones(features, dtype=torch.float32))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, mel: Tensor) -> Tensor:
        """Normalise ``mel`` [frames, bands] float32 → the same shape.

        Raises:
            ModelError: Where the statistics were rounded to another dtype.
        """
        self.check_dtype(self.running_var)
        return F.batch_norm(
            mel, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class MelFrontend(nn.Module):
    """Waveforms to decibels of mel bands. It has no tensors of its own: window and filters are recomputed.

    Args:
        config: The configuration of the audio encoder.
    """

    def __init__(self, config: DashengConfig) -> None:
        super().__init__()
        self.n_fft, self.hop = config.n_fft, config.hop_length
        f_max = config.sample_rate / 2 if config.f_max is None else config.f_max
        self._filters = mel_filters(
            config.n_fft // 2 + 1, config.n_mels, config.sample_rate, config.f_min, f_max
        ).astype(np.float32)
        hann = 0.5 - 0.5 * np.cos(2.0 * math.pi * np.arange(config.win_length) / config.win_length)
        left = (config.n_fft - config.win_length) // 2
        self._window = np.pad(hann, (left, config.n_fft - config.win_length - left)).astype(np.float32)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Window [n_fft] and filters [n_fft / 2 + 1, bands] on a device, made once for each."""
        if device not in self._on_device:
            self._on_device[device] = (
                torch.from_numpy(self._window).to(device),
                torch.from_numpy(self._filters).to(device),
            )
        return self._on_device[device]

    @torch.no_grad()
    def forward(self, waveform: Tensor, layout: ClipLayout) -> Tensor:
        """Mel decibels of the frames that patches are made of.

        Args:
            waveform: [S] float32, the clips end to end, each of ``layout.samples`` samples.
            layout: The layout of these clips.

        Returns:
            [P · frames of a patch, bands] float32.
        """
        window, filters = self.constants(waveform.device)
        with no_autocast(waveform.device):
            frames = self._reflected(waveform.float(), layout).unfold(0, self.n_fft, self.hop)
            spectrum = torch.view_as_real(torch.fft.rfft(frames * window))
            power = spectrum.square_().sum(-1)
            mel = (power @ filters).index_select(0, layout.frame_rows)
            decibels = mel.clamp_(min=POWER_FLOOR).log10_().mul_(10.0)
            loudest = decibels.new_full((len(layout.samples),), -math.inf)
            loudest.scatter_reduce_(0, layout.frame_clips, decibels.amax(1), "amax")
            floor = (loudest - RANGE_DB).index_select(0, layout.frame_clips)
            return torch.maximum(decibels, floor[:, None]).index_select(0, layout.patch_frames)

    def _reflected(self, waveform: Tensor, layout: ClipLayout) -> Tensor:
        """The clips end to end, each reflected at its own ends and filled up to a multiple of the hop."""
        half, total = self.n_fft // 2, waveform.shape[0]
        backwards, zeros = waveform.flip(0), waveform.new_zeros(self.hop)
        pieces, start = [], 0
        for length, fill in zip(layout.samples, layout.fills, strict=True):
            end = start + length
            pieces += [
                backwards[total - 1 - start - half : total - 1 - start],
                waveform[start:end],
                backwards[total - end + 1 : total - end + 1 + half],
                zeros[:fill],
            ]
            start = end
        return torch.cat(pieces)
