"""Weight files: read without a copy, and never trusted before they are checked."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.tensorfiles.headers import INDEX_NAME, read_json
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "c": torch.tensor(7),
    "d": torch.tensor([True, False, True]),
    "e": torch.empty(0, 4),
    "f": torch.arange(5, dtype=torch.int8),
}


def _raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.mkdir(exist_ok=True)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _error(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        WeightFiles(folder)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text and len(text) < 700
    return text


def test_tensors_come_back_as_they_were(tmp_path: Path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    files = WeightFiles(tmp_path)
    assert set(files) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(files.tensor(name), tensor) and files[name].dtype == tensor.dtype
        assert files[name].shape == tuple(tensor.shape)
    assert torch.equal(files.slice("a.weight", 1, 3), TENSORS["a.weight"][1:3])
    assert files.slice("a.weight", 3, 9).shape == (0, 4)


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path: Path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    tensor = WeightFiles(tmp_path).tensor("a.weight")
    tensor.fill_(9)
    assert tensor.sum() == 108 and (tmp_path / "model.safetensors").read_bytes() == before


def test_unaligned_tensors_of_other_writers(tmp_path: Path):
    data = b"\x01" + struct.pack("<2f", 1.5, -2.5)
    header = {
        "x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "y": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    text = json.dumps(header).encode()
    text += b" " * ((-len(text)) % 8)
    files = WeightFiles(_raw(tmp_path / "m", text, data))
    assert files.tensor("y").tolist() == [1.5, -2.5]


def test_a_file_system_that_cannot_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):

    def refuse(*args, **kwargs):
        raise OSError(19, "No such device")

    save_file(TENSORS, tmp_path / "model.safetensors")
    monkeypatch.setattr("mmap.mmap", refuse)
    files = WeightFiles(tmp_path)
    assert all(torch.equal(files.tensor(name), tensor) for name, tensor in TENSORS.items())


def test_a_half_written_file(tmp_path: Path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for length in (0, 4, 8, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        assert "fetch it anew" in _error(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole + b"\0")
    assert "half-written" in _error(tmp_path)


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"\xff\xfe",
        b"[" * 5000,
        b"[]",
        b'{"a":1e999}',
        b'{"x": %s, "x": %s}' % ((b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',) * 2),
        {"x": None},
        {"x": {**F32, "dtype": "F4"}},
        {"x": {**F32, "dtype": ["F32"]}},
        {"x": {**F32, "shape": [2]}},
        {"x": {**F32, "shape": [-1]}},
        {"x": {**F32, "shape": [True]}},
        {"x": {**F32, "shape": [2**62, 2**62, 2**62]}},
        {"x": {**F32, "shape": [1] * 4000}},
        {"x": {**F32, "shape": "1"}},
        {"x": {**F32, "data_offsets": [4, 0]}},
        {"x": {**F32, "data_offsets": [0, 4, 8]}},
        {"x": {**F32, "data_offsets": [-4, 0]}},
        {"x": F32, "y": F32},
        {"x": {**F32, "data_offsets": [8, 12]}},
    ],
)
def test_a_broken_header(tmp_path: Path, header: object):
    _error(_raw(tmp_path / "m", header, b"\0" * 4))


def test_a_giant_header_takes_no_memory(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "header of 4611686018427387904 bytes" in _error(tmp_path)
    with open(tmp_path / "model.safetensors", "wb") as stream:  # a sparse file of 8 TiB
        stream.write(struct.pack("<Q", 2**42))
        stream.truncate(2**43)
    assert "not a whole safetensors file" in _error(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..\\x.safetensors",
        "x.bin",
        ".x.safetensors",
        7,
        None,
    ],
)
def test_an_index_names_files_of_its_own_folder_only(tmp_path: Path, file: object):
    folder = tmp_path / "m"
    folder.mkdir()
    save_file(TENSORS, tmp_path / "model.safetensors")
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": {"b": file}}))
    assert "of its own folder" in _error(folder)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (
            {"weight_map": {"b": "x.safetensors", "z": "x.safetensors"}},
            "z shall be in x.safetensors and isn't",
        ),
        ({"weight_map": {"b": "y.safetensors"}}, "missing"),
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": []}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_a_wrong_index(tmp_path: Path, index: object, expected: str):
    save_file(TENSORS, tmp_path / "x.safetensors")
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    assert expected in _error(tmp_path)


def test_a_pickle_is_named_and_never_opened(tmp_path: Path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "pytorch_model.bin").mkdir()  # whoever opened it would fail otherwise
    assert "pytorch_model.bin" in _error(folder) and "never read" in _error(folder)
    assert "no weights" in _error(tmp_path)


def test_fingerprints_follow_the_weights(tmp_path: Path):
    first = {**TENSORS, "g": torch.zeros(3000)}
    save_file(first, tmp_path / "model.safetensors")
    mark = WeightFiles(tmp_path).fingerprint()
    (tmp_path / "other").mkdir()
    save_file(first, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    assert WeightFiles(tmp_path / "other").fingerprint() == mark
    for change in ({"g": torch.ones(3000)}, {"c": torch.tensor(8)}, {"h": torch.zeros(1)}):
        save_file({**first, **change}, tmp_path / "other" / "model.safetensors")
        assert WeightFiles(tmp_path / "other").fingerprint() != mark


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_bytes_say_it_is_a_model_error_or_sound_tensors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    save_file({"a": torch.arange(4.0), "b": torch.zeros(2, 3)}, folder / "model.safetensors")
    raw = bytearray((folder / "model.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        files = WeightFiles(folder)
        for name in files:
            files.tensor(name).float().sum()
    except ModelError as error:
        assert "\n" not in str(error)


PARTS = st.sampled_from(["x.safetensors", "../x.safetensors", "y.safetensors", "weight_map", "a", "b", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | PARTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(index=JSON | st.dictionaries(st.just("weight_map"), JSON | st.dictionaries(PARTS, PARTS)))
def test_whatever_an_index_says(tmp_path_factory, index):
    folder = tmp_path_factory.mktemp("index") / "m"
    folder.mkdir()
    for place in (folder, folder.parent):
        save_file({"a": torch.zeros(2), "b": torch.ones(1)}, place / "x.safetensors")
    (folder / INDEX_NAME).write_text(json.dumps(index))
    try:
        files = WeightFiles(folder)
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert set(files) <= {"a", "b"} and files.files == [folder / "x.safetensors"]


def test_a_json_file_that_is_too_large_is_named_once(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text("[1, 2]")
    assert read_json(path, limit=6) == [1, 2]
    with pytest.raises(ModelError) as caught:
        read_json(path, limit=5)
    assert str(caught.value) == f"{path}: 6 bytes, more than the 5 such a file may have"
