"""What is written is a safetensors file as the library writes it, whatever arrives when."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdl_toolkit.model_folders.tensorfiles.writer import save_tensors, write_tensors

TENSORS = {
    "d\u00e9codeur.b": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "a": torch.arange(12, dtype=torch.float32).view(3, 4).T,
    "flags": torch.tensor([True, False, True]),
    "c": torch.tensor(7.0),
    "empty": torch.empty(0, 4),
}


def test_the_file_is_the_library_s_to_the_byte(tmp_path: Path) -> None:
    whole = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(whole, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    save_tensors(tmp_path / "ours.safetensors", TENSORS)
    theirs, ours = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("theirs", "ours"))
    assert ours == theirs


def test_tensors_of_one_memory_are_written_each(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"head": TENSORS["c"], "embeddings": TENSORS["c"]})
    assert load_file(tmp_path / "x.safetensors") == {"head": TENSORS["c"], "embeddings": TENSORS["c"]}


def test_a_tensor_other_than_announced_is_no_file_of_wrong_numbers(tmp_path: Path) -> None:
    layout = {"a": (torch.float32, (2,)), "b": (torch.float32, (2,))}
    for arriving in ([("a", torch.zeros(3))], [("b", torch.zeros(2))], [("a", torch.zeros(2))]):
        with pytest.raises(AssertionError, match=r"out of turn|fewer"):
            write_tensors(tmp_path / "x.safetensors", layout, arriving)
