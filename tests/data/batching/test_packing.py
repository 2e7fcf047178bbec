"""A batch on its way between processes: fewer bytes, the very same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mdl_toolkit.data.batching.collate import PackedBatch
from mdl_toolkit.data.batching.packing import Packed, to_message

EVERY_SAMPLE = (np.arange(-32768, 32768) / 32768).astype(np.float32)
FULL_SCALE = np.array([1.0, -1.0], np.float32)
NEGATIVE_ZERO = np.array([0.5, -0.0], np.float32)
NOT_A_NUMBER = np.array([0.5, np.nan, np.inf], np.float32)
FINER = np.array([0.5, 1 / 3], np.float32)
NEARLY = np.array([0.0] * 99_999 + [1e-7], np.float32)


def packed(waveform: np.ndarray, ids: np.ndarray | None = None) -> Packed:
    ids = np.array([1, 151_000, 2**31 - 1, 7, 9]) if ids is None else ids
    return Packed(
        input_ids=ids,
        position_ids=np.arange(5),
        audio_positions=np.array([1]),
        target_positions=np.array([], dtype=np.int64),
        targets=np.array([], dtype=np.int64),
        waveform=waveform,
        sequence_lengths=(5,),
        audio_samples=(len(waveform),),
        rows=("rows.csv row 2 (ü.wav)",),
        indices=(0,),
    )


def received(sent: Packed) -> PackedBatch:
    header, parts = to_message(sent)
    body = torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8)
    return PackedBatch.from_message(header, body, "cpu")


@pytest.mark.parametrize(
    "waveform", [EVERY_SAMPLE, FULL_SCALE, NEGATIVE_ZERO, NOT_A_NUMBER, FINER, NEARLY, EVERY_SAMPLE[:0]]
)
def test_every_bit_comes_back(waveform: np.ndarray):
    sent = packed(waveform)
    found = received(sent)
    for field in dataclasses.fields(sent):
        wanted, value = getattr(sent, field.name), getattr(found, field.name)
        if isinstance(wanted, np.ndarray):
            assert value.numpy().dtype == wanted.dtype and value.numpy().tobytes() == wanted.tobytes()
            assert value.shape == wanted.shape
        else:
            assert value == wanted


def test_what_was_16_bits_goes_as_16_bits_and_nothing_else_does():
    def sent_as(waveform: np.ndarray) -> str:
        return to_message(packed(waveform))[0].places["waveform"].sent

    assert sent_as(EVERY_SAMPLE) == "int16"
    for waveform in (FULL_SCALE, NEGATIVE_ZERO, NOT_A_NUMBER, FINER, NEARLY):
        assert sent_as(waveform) == "float32"


def test_ids_beyond_32_bits_are_not_cut():
    ids = np.array([1, 2**40, -(2**40), 3, 4])
    header, _ = to_message(packed(EVERY_SAMPLE, ids))
    assert header.places["input_ids"].sent == "int64" and header.places["position_ids"].sent == "int32"
    assert received(packed(EVERY_SAMPLE, ids)).input_ids.tolist() == ids.tolist()


def test_arrays_lie_where_every_type_may_lie():
    header, parts = to_message(packed(EVERY_SAMPLE[:333]))
    assert all(place.start % 64 == 0 for place in header.places.values())
    assert sum(map(len, parts)) % 64 == 0
