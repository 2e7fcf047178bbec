"""Clips as 16-bit samples, the form in which datasets keep them and models hear them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.audio.decode import scratch

Floats = NDArray[np.float32]

#: A 16-bit sample times this is the sample in [-1, 1). A power of two: the product is exact.
PCM16_SCALE = 2.0**-15


def to_pcm16(waveform: Floats) -> tuple[NDArray[np.int16], int]:
    """Round to 16 bits, to the nearest and alike on both sides of zero.

    Returns:
        int16 [L] (little-endian), and how many samples lay beyond full scale and were clipped.
    """
    scaled = np.multiply(waveform, np.float32(32768), out=scratch("scaled", np.float32, len(waveform)))
    np.rint(scaled, out=scaled)
    clipped = 0
    if scaled.max() > 32767 or scaled.min() < -32768:
        clipped = int(np.count_nonzero(np.abs(scaled) > 32768))
        np.clip(scaled, -32768, 32767, out=scaled)
    return scaled.astype("<i2"), clipped


def from_pcm16(pcm: NDArray[np.int16] | Any) -> Floats:
    """16-bit samples (int16 [L], or their bytes, little-endian) as float32 [L] in [-1, 1)."""
    samples = pcm if isinstance(pcm, np.ndarray) else np.frombuffer(pcm, dtype="<i2")
    return np.asarray(np.multiply(samples, np.float32(PCM16_SCALE), dtype=np.float32))


def is_silent(pcm: NDArray[np.int16]) -> bool:
    """Whether 16-bit samples are a constant, but for their last bit (dither, or a very quiet hiss)."""
    # A few samples are enough to see that there is sound, in nearly every clip.
    return all(int(some.max()) - int(some.min()) <= 2 for some in (pcm[::101], pcm))


def flac_bytes(pcm: NDArray[np.int16], sample_rate: int) -> bytes:
    """16-bit samples as a FLAC file, without loss."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
