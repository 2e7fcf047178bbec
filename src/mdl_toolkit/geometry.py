"""Clip arithmetic: from samples to frames, patches, chunks and audio tokens. Pure Python, no torch.

Both the data side (how many placeholders a clip needs) and the model (how many features it makes) take their
numbers from here, so they can't disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Shorter clips are zero-padded to this many samples (0.2 s at 16 kHz), as the serving engines do.
MIN_SAMPLES = 3200


@dataclass(frozen=True)
class AudioGeometry:
    """The numbers of a checkpoint's ``config.json`` that decide how many tokens a clip becomes.

    Attributes:
        sample_rate: Samples per second.
        hop_length: Samples from one frame to the next.
        patch_frames: Frames in a patch (patch_size[1] of the config).
        target_length: Frames in a chunk; each chunk goes through the encoder by itself.
        subsample_factor: Patches that the projector joins to one audio token.
    """

    sample_rate: int = 16000
    hop_length: int = 160
    patch_frames: int = 4
    target_length: int = 1008
    subsample_factor: int = 5
    min_samples: int = MIN_SAMPLES

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AudioGeometry:
        """Read the geometry from a parsed ``config.json`` of a MiDashengLM folder."""
        audio = config.get("audio_encoder_config") or {}
        patch = audio.get("patch_size", [64, 4])
        return cls(
            sample_rate=audio.get("sample_rate", 16000),
            hop_length=audio.get("hop_length", 160),
            patch_frames=patch[1] if isinstance(patch, (list, tuple)) else patch,
            target_length=audio.get("target_length", 1008),
            subsample_factor=config.get("subsample_factor", 5),
        )

    @property
    def chunk_patches(self) -> int:
        """Patches in a full chunk (252, that is 10.08 s, in every published checkpoint)."""
        return self.target_length // self.patch_frames

    def padded_samples(self, samples: int) -> int:
        """Samples after the zero-padding of very short clips."""
        return max(samples, self.min_samples)

    def frames(self, samples: int) -> int:
        """Mel frames of a clip."""
        return 1 + self.padded_samples(samples) // self.hop_length

    def patches(self, samples: int) -> int:
        """Patches of a clip: queries of the encoder's attention."""
        return self.frames(samples) // self.patch_frames

    def valid_patches(self, samples: int) -> int:
        """Patches that may be attended to (keys); the last patch of a clip can be missing here."""
        return min(
            self.padded_samples(samples) // (self.hop_length * self.patch_frames), self.patches(samples)
        )

    def audio_tokens(self, samples: int) -> int:
        """Features that the projector makes of a clip: the number of its placeholders. At least 1."""
        return max(1, self.patches(samples) // self.subsample_factor)

    def chunks(self, samples: int) -> list[tuple[int, int]]:
        """``(patches, valid patches)`` of each chunk of a clip, in order."""
        total, valid, size = self.patches(samples), self.valid_patches(samples), self.chunk_patches
        return [
            (min(size, total - start), max(0, min(size, valid - start))) for start in range(0, total, size)
        ]
