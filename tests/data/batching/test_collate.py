"""Examples to a packed batch, against a literal one and against a plain loop."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mdl_toolkit.data.batching.collate import PackedBatch
from mdl_toolkit.data.dataset.dataset import Example
from mdl_toolkit.data.prompt.builder import IGNORED
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import AudioGeometry
from support.models.batches import collate

AUDIO = 9


def _example(ids: list[int], labels: list[int], samples: int, index: int = 0) -> Example:
    wave = np.arange(1, samples + 1, dtype=np.float32) / 1e6
    return Example(np.array(ids), np.array(labels), wave, index, f"rows.csv row {index + 2}")


FIRST = _example([1, 9, 2, 3, 4, 5], [IGNORED] * 4 + [4, 5], 5000, 3)
SECOND = _example([1, 9, 2, 6, 5], [IGNORED] * 3 + [6, 5], 100, 7)


def test_the_example_of_the_documentation():
    batch = collate([FIRST, SECOND], AUDIO, AudioGeometry())
    assert batch.input_ids.tolist() == [1, 9, 2, 3, 4, 5, 1, 9, 2, 6, 5]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]
    assert batch.audio_positions.tolist() == [1, 7]
    assert batch.target_positions.tolist() == [3, 4, 8, 9]
    assert batch.targets.tolist() == [4, 5, 6, 5]
    assert batch.waveform.shape == (8200,) and batch.waveform.dtype == torch.float32
    np.testing.assert_array_equal(batch.waveform[:5000], FIRST.waveform)
    np.testing.assert_array_equal(batch.waveform[5000:5100], SECOND.waveform)
    assert not batch.waveform[5100:].any()
    assert (batch.sequence_lengths, batch.audio_samples) == ((6, 5), (5000, 3200))
    assert (batch.rows, batch.indices) == (("rows.csv row 5", "rows.csv row 9"), (3, 7))
    names = ("input_ids", "position_ids", "audio_positions", "target_positions", "targets")
    assert all(getattr(batch, name).dtype == torch.int64 for name in names)


def test_examples_are_left_as_they_were():
    example = _example([1, 9, 5], [1, 9, 5], 4000)
    batch = collate([example], AUDIO)
    assert batch.targets.tolist() == [9, 5]  # nothing predicts a row's first token
    assert example.labels.tolist() == [1, 9, 5]
    batch.waveform.zero_()
    assert example.waveform.any()


TOKENS = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TOKENS, st.integers(1, 7000)), min_size=1, max_size=5))
def test_it_is_what_a_plain_loop_makes(rows: list):
    examples = []
    for i, (tokens, samples) in enumerate(rows):
        ids = [token for token, _ in tokens]
        examples.append(_example(ids, [t if on else IGNORED for t, on in tokens], samples, i))
    batch = collate(examples, AUDIO)
    ids, positions, places, targets, audio, wave = [], [], [], [], [], []
    for example in examples:
        for i, token in enumerate(example.input_ids):
            if token == AUDIO:
                audio.append(len(ids))
            if i and example.labels[i] != IGNORED:
                places.append(len(ids) - 1)
                targets.append(int(example.labels[i]))
            ids.append(int(token))
            positions.append(i)
        wave += [*example.waveform.tolist(), *[0.0] * max(0, 3200 - len(example.waveform))]
    assert batch.input_ids.tolist() == ids and batch.position_ids.tolist() == positions
    assert batch.audio_positions.tolist() == audio
    assert batch.target_positions.tolist() == places and batch.targets.tolist() == targets
    np.testing.assert_array_equal(batch.waveform, np.array(wave, dtype=np.float32))
    assert sum(batch.sequence_lengths) == len(ids) and sum(batch.audio_samples) == len(wave)


def test_placeholders_must_match_the_clip():
    with pytest.raises(DataError, match=r"row 5: 1 audio placeholders .* 9600 samples makes 3 audio tokens"):
        collate([SECOND, _example([1, 9, 2], [IGNORED] * 3, 9600, 3)], AUDIO, AudioGeometry())
    collate([SECOND, _example([9, 1, 9, 9], [IGNORED] * 4, 9600, 3)], AUDIO, AudioGeometry())


def test_what_the_model_is_given():
    batch = collate([FIRST, SECOND], AUDIO)
    assert set(batch.model_inputs()) == {
        "input_ids", "position_ids", "audio_positions", "target_positions", "targets", "waveform",
        "sequence_lengths", "audio_samples",
    }  # fmt: skip
    moved = batch.to("meta")
    assert moved.waveform.device.type == moved.targets.device.type == "meta"
    assert moved.rows == batch.rows and batch.waveform.device.type == "cpu"


def test_it_travels_between_processes():
    batch = pickle.loads(pickle.dumps(collate([FIRST, SECOND], AUDIO)))
    assert isinstance(batch, PackedBatch) and batch.rows == ("rows.csv row 5", "rows.csv row 9")
    loader = DataLoader(
        [FIRST, SECOND, FIRST],  # type: ignore[arg-type]
        batch_size=2,
        collate_fn=_collate,
        num_workers=1,
        multiprocessing_context="fork",
    )
    assert [len(batch.rows) for batch in loader] == [2, 1]


def _collate(examples: list[Example]) -> PackedBatch:
    return collate(examples, AUDIO)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_memory():
    batch = collate([FIRST, SECOND], AUDIO).pin_memory()
    assert batch.waveform.is_pinned() and batch.input_ids.is_pinned()
    moved = batch.to("cuda", non_blocking=True)
    assert moved.waveform.is_cuda and moved.targets.tolist() == [4, 5, 6, 5]
