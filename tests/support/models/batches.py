"""Random examples and packed batches for a tiny model, without a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdl_toolkit.data.batching.collate import PackedBatch
from mdl_toolkit.data.batching.packing import pack
from mdl_toolkit.data.dataset.dataset import Example
from mdl_toolkit.geometry import AudioGeometry
from support.models.tiny import tiny_config

AUDIO = tiny_config()["audio_token_id"]


def random_example(index: int, seconds: float | None = None, answer: int | None = None) -> Example:
    """A row of random tokens and noise: 5 of a prompt, the clip's placeholders, 1 to 12 of an answer."""
    chance = np.random.default_rng(index)
    samples = int(chance.integers(1000, 40000)) if seconds is None else int(16000 * seconds)
    count = int(chance.integers(1, 13)) if answer is None else answer
    placeholders = [AUDIO] * AudioGeometry().audio_tokens(samples)
    ids = np.concatenate([chance.integers(0, 200, 5), placeholders, chance.integers(0, 200, count)])
    labels = np.full(len(ids), -100)
    labels[len(ids) - count :] = ids[len(ids) - count :]
    waveform = chance.standard_normal(samples).astype(np.float32) * 0.1
    return Example(input_ids=ids, labels=labels, waveform=waveform, index=index, row=f"row {index}")


def collate(
    examples: Sequence[Example], audio_token_id: int, geometry: AudioGeometry | None = None
) -> PackedBatch:
    """Examples as a batch of tensors, packed and collated in this process."""
    return PackedBatch.of(pack(examples, audio_token_id, geometry))


def random_batch(indices: Sequence[int], seconds: float | None = None) -> PackedBatch:
    """The examples of these numbers, packed."""
    return collate([random_example(index, seconds) for index in indices], AUDIO)
