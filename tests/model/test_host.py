"""A packed training step never asks the device for a value: it would wait for all the work queued there."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
from mdl_toolkit.model.kernels import attention
from support.data.rows import packed
from support.models import kernel

#: Operations whose result's size or value has to be read back from the device.
READS_BACK = (
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "unique",
    "bincount",
    "is_nonzero",
    "equal",
    "repeat_interleave.Tensor",
    "_assert_async",
)


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        if "index.Tensor" in str(function) or "index_put" in str(function):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), function
        return function(*args, **(kwargs or {}))


def assert_nothing_read(seen):
    assert len(seen) > 300
    assert not [name for name in seen if any(word in name for word in READS_BACK)]


def batch_of(case):
    rows = [case.row(samples, seed=i) for i, samples in enumerate((3690, 6300, 161760, 9000))]
    return packed(rows, case.placeholder)


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_operation_reads_back(tiny, decoder, checkpointing):
    case = tiny(decoder)
    batch = batch_of(case)
    case.model.train()
    if checkpointing:
        case.model.recompute_blocks()
    try:
        with Operations() as operations:
            case.model(**batch).loss_sum.backward()
    finally:
        case.model.recompute_blocks(False)
    assert_nothing_read(operations.seen)


@pytest.mark.parametrize("with_kernel", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_runs_where_there_are_no_values(tiny, monkeypatch, with_kernel, frozen):
    """On the meta device nothing can be read back, as on a GPU nothing should be."""
    monkeypatch.setattr(attention, "has_kernel", lambda query: with_kernel)
    case = tiny()
    with torch.device("meta"):
        model = MiDashengLMModel(MiDashengLMConfig(**case.config)).train()
    if frozen:
        model.decoder.requires_grad_(False)
    batch = {
        name: value.to("meta") if isinstance(value, torch.Tensor) else value
        for name, value in batch_of(case).items()
    }
    try:
        with Operations() as operations:
            total = model(**batch).loss_sum
            total.backward()
    except RuntimeError as error:
        if "unknown device type for autocast" not in str(error):
            raise
        pytest.skip("this version of transformers has no rotary embedding for the meta device")
    assert total.shape == () and total.dtype == torch.float32
    assert model.audio_encoder.blocks[0].attn.qkv.weight.grad.shape == (96, 32)
    assert any("_varlen_attn_backward" in name for name in operations.seen) == with_kernel
    assert_nothing_read(operations.seen)


def test_indices_of_a_batch_travel_in_one_copy(tiny, monkeypatch):
    """The clips' layout is one transfer; the encoder's and the decoder's sequences are one each."""
    kernel.install()
    case = tiny()
    copies = []
    original = torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: copies.append(len(array)) or original(array))
    batch = batch_of(case)
    copies.clear()
    case.model.audio_encoder.front_end.constants(torch.device("cpu"))
    copies.clear()
    case.model(**batch)
    assert len(copies) == 1
