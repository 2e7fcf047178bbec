"""Clip arithmetic against the specification's own sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdl_toolkit.geometry import AudioGeometry

GEOMETRY = AudioGeometry()


@pytest.mark.parametrize(
    ("seconds", "patches", "tokens"), [(1, 25, 5), (5, 125, 25), (10.08, 252, 50), (30, 750, 150)]
)
def test_a_second_is_25_patches_and_5_tokens(seconds: float, patches: int, tokens: int):
    samples = round(seconds * 16000)
    assert GEOMETRY.patches(samples) == patches
    assert GEOMETRY.audio_tokens(samples) == tokens


@pytest.mark.parametrize("samples", [1, 160, 3199, 3200])
def test_short_clips_count_as_a_fifth_of_a_second(samples: int):
    assert GEOMETRY.padded_samples(samples) == 3200
    assert (GEOMETRY.frames(samples), GEOMETRY.patches(samples), GEOMETRY.audio_tokens(samples)) == (21, 5, 1)


@given(st.integers(1, 10**7))
def test_chunks_cover_every_patch_once(samples: int):
    chunks = GEOMETRY.chunks(samples)
    assert sum(total for total, _ in chunks) == GEOMETRY.patches(samples)
    assert sum(valid for _, valid in chunks) == GEOMETRY.valid_patches(samples) == max(samples, 3200) // 640
    assert all(total == 252 for total, _ in chunks[:-1])
    assert all(0 <= valid <= total <= 252 for total, valid in chunks)


def test_a_last_chunk_can_be_one_patch_whose_key_is_masked():
    samples = 252 * 640 + 480  # a last frame begins a patch that has no whole 640 samples
    assert GEOMETRY.chunks(samples) == [(252, 252), (1, 0)]


def test_numbers_come_from_the_config():
    config = {
        "audio_encoder_config": {
            "sample_rate": 8000, "hop_length": 80, "patch_size": [64, 2], "target_length": 100,
        },
        "subsample_factor": 4,
    }  # fmt: skip
    geometry = AudioGeometry.from_config(config)
    assert geometry == AudioGeometry(8000, 80, 2, 100, 4)
    assert geometry.chunk_patches == 50
    assert AudioGeometry.from_config({}) == AudioGeometry()
