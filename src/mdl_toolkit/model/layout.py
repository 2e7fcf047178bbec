"""Where everything of a packed batch of clips lies: all indices, made on the host of the clips' lengths.

The device never has to be asked for a length: numpy makes the index arrays, and one copy takes them over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdl_toolkit.geometry import AudioGeometry

Ints = NDArray[np.int64]


def ragged_arange(counts: Ints) -> Ints:
    """``0 … count-1`` for each count, end to end: ``[2, 3]`` gives ``[0, 1, 0, 1, 2]``."""
    starts = np.cumsum(counts) - counts
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(starts, counts)


def to_device(arrays: Sequence[Ints], device: torch.device) -> list[Tensor]:
    """Send several index arrays with one asynchronous copy."""
    joined = torch.from_numpy(np.concatenate(arrays))
    if device.type == "cuda":
        joined = joined.pin_memory()
    return list(torch.split(joined.to(device, non_blocking=True), [len(array) for array in arrays]))


@dataclass(frozen=True)
class ClipLayout:
    """Indices of a packed batch of B clips with F frames, P patches and A audio tokens in all.

    Attributes:
        samples: Length of each clip after the padding of very short ones, as ints on the host.
        fills: Zeros after each clip's reflected end, so that every clip starts on a multiple of the hop.
        chunk_patches: Patches of each chunk.
        chunk_valid: How many of them, from the first, may be attended to.
        tokens: Audio tokens of each clip.
        frame_rows: [F] row of each frame among the windows of the padded waveform.
        frame_clips: [F] clip of each frame.
        patch_frames: [P · frames of a patch] frames that patches are made of.
        positions: [P] position of each patch in its chunk.
        token_patches: [A · subsample factor] patches that audio tokens are made of.
    """

    samples: tuple[int, ...]
    fills: tuple[int, ...]
    chunk_patches: tuple[int, ...]
    chunk_valid: tuple[int, ...]
    tokens: tuple[int, ...]
    frame_rows: Tensor
    frame_clips: Tensor
    patch_frames: Tensor
    positions: Tensor
    token_patches: Tensor

    @classmethod
    def build(
        cls, audio_samples: Iterable[int], geometry: AudioGeometry, n_fft: int, device: torch.device
    ) -> ClipLayout:
        """Work out the layout of clips of the given lengths in samples."""
        lengths = tuple(int(length) for length in audio_samples)
        samples = tuple(geometry.padded_samples(length) for length in lengths)
        hop = geometry.hop_length
        frames = np.array([geometry.frames(length) for length in lengths], dtype=np.int64)
        patches = np.array([geometry.patches(length) for length in lengths], dtype=np.int64)
        tokens = np.array([geometry.audio_tokens(length) for length in lengths], dtype=np.int64)
        fills = tuple(-(length + 2 * (n_fft // 2)) % hop for length in samples)
        windows = np.array(
            [(length + 2 * (n_fft // 2) + fill) // hop for length, fill in zip(samples, fills, strict=True)],
            dtype=np.int64,
        )
        chunks = [chunk for length in lengths for chunk in geometry.chunks(length)]
        chunk_patches = tuple(chunk[0] for chunk in chunks)
        arrays = (
            np.repeat(np.cumsum(windows) - windows, frames) + ragged_arange(frames),
            np.repeat(np.arange(len(lengths), dtype=np.int64), frames),
            np.repeat(np.cumsum(frames) - frames, patches * geometry.patch_frames)
            + ragged_arange(patches * geometry.patch_frames),
            ragged_arange(np.array(chunk_patches, dtype=np.int64)),
            np.repeat(np.cumsum(patches) - patches, tokens * geometry.subsample_factor)
            + ragged_arange(tokens * geometry.subsample_factor),
        )
        rows, clips, patch_frames, positions, token_patches = to_device(arrays, device)
        return cls(
            samples=samples,
            fills=fills,
            chunk_patches=chunk_patches,
            chunk_valid=tuple(chunk[1] for chunk in chunks),
            tokens=tuple(int(count) for count in tokens),
            frame_rows=rows,
            frame_clips=clips,
            patch_frames=patch_frames,
            positions=positions,
            token_patches=token_patches,
        )
