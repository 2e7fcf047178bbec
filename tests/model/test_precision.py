"""The front end and ``init_bn`` stay in float32, whatever the rest is in."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModel

from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
from mdl_toolkit.model.layout import ClipLayout
from support.data.rows import noise, packed


def normalised_mel(model, waveform):
    """What goes into the patches."""
    seen = []
    patch_embed = model.audio_encoder.patch_embed
    hook = patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    layout = ClipLayout.build((len(waveform),), model.geometry, 512, waveform.device)
    with torch.no_grad():
        model.audio_encoder(waveform, layout)
    hook.remove()
    return seen[0]


CASTS = {
    "to": lambda model: model.to(torch.bfloat16),
    "bfloat16": lambda model: model.bfloat16(),
    "half": lambda model: model.half(),
    "to through float16": lambda model: model.half().to(torch.bfloat16),
    "parts": lambda model: (model.audio_encoder.to(torch.bfloat16), model)[1],
}


@pytest.mark.parametrize("cast", CASTS)
def test_casting_the_model_leaves_the_front_end_exact(tiny, cast):
    case = tiny()
    waveform = torch.from_numpy(noise(5000))
    expected = normalised_mel(case.model, waveform)
    model = CASTS[cast](copy.deepcopy(case.model))
    assert model.audio_encoder.blocks[0].attn.qkv.weight.dtype != torch.float32
    norm = model.audio_encoder.init_bn
    kept = {"weight", "bias", "running_mean", "running_var"}
    assert {name for name, tensor in norm.state_dict().items() if tensor.dtype == torch.float32} == kept
    for name, tensor in norm.state_dict().items():
        assert torch.equal(tensor, case.model.audio_encoder.init_bn.state_dict()[name])
    got = normalised_mel(model, waveform)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_loading_in_bfloat16_keeps_it_too(tiny):
    case = tiny()
    model = AutoModel.from_pretrained(case.folder, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    waveform = torch.from_numpy(noise(5000))
    assert torch.equal(normalised_mel(model, waveform), normalised_mel(case.model, waveform))


def test_building_under_another_default_dtype_keeps_it_too(tiny):
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = MiDashengLMModel(MiDashengLMConfig(**tiny().config))
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.audio_encoder.init_bn.running_var.dtype == torch.float32
    assert model.audio_encoder.norm.weight.dtype == torch.bfloat16


def test_mixed_precision_does_not_reach_it(tiny):
    case = tiny()
    waveform = torch.from_numpy(noise(5000))
    expected = normalised_mel(case.model, waveform)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(normalised_mel(case.model, waveform), expected)


def test_float64_is_not_narrowed_elsewhere(tiny):
    model = copy.deepcopy(tiny().model).double()
    assert model.audio_encoder.norm.weight.dtype == torch.float64
    assert model.audio_encoder.init_bn.weight.dtype == torch.float32


def test_a_waveform_of_another_type_is_taken(tiny):
    """Callers that cast all their inputs still get a float32 front end (of what is left of the waveform)."""
    case = tiny()
    waveform = torch.from_numpy(noise(5000)).to(torch.bfloat16)
    layout = ClipLayout.build((5000,), case.model.geometry, 512, waveform.device)
    assert case.model.audio_encoder.front_end(waveform, layout).dtype == torch.float32
    assert case.model.encode_audio(waveform, (5000,)).dtype == torch.float32


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
def test_bfloat16_trains_close_to_float32(tiny, decoder):
    """The loss of a bfloat16 model is that of the float32 one up to bfloat16's own 2^-8."""
    case = tiny(decoder)
    batch = packed([case.row(n, seed=n) for n in (4000, 9000, 5000)], case.placeholder)
    exact = case.model(**batch).loss_sum.item()
    model = copy.deepcopy(case.model).bfloat16()
    total = model(**batch).loss_sum
    total.backward()
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(exact, rel=2**-7)  # measured 2e-3
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert case.model(**batch).loss_sum.item() == pytest.approx(exact, rel=2**-7)


def test_the_state_dict_has_no_constants(tiny):
    names = list(tiny().model.state_dict())
    assert not [name for name in names if "front_end" in name or "window" in name or "filters" in name]
