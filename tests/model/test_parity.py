"""The model against a plain float64 computation from the specification.

Tolerances: the largest errors measured over all cases here are 1e-6 in features and 3e-6 in logits (of size
1 to 3), which is float32 rounding; the bounds leave a factor of about ten. A mask, a floor or a position that
is off shows as 1e-3 and more.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdl_toolkit.model.layout import ClipLayout
from support.data.rows import noise, packed, padded
from support.models import reference

FEATURES = 1e-5
LOGITS = 3e-5
LOSS = 1e-5
#: Very short clips (zero-padded), 5 s, around the first chunk's end (10.08 s; 161,760 samples leave a last
#: chunk of one patch that nothing attends to; 161,920 one that is whole), three chunks.
LENGTHS = (1, 100, 3199, 3200, 3201, 80000, 161279, 161280, 161760, 161919, 161920, 400000)


def front_end(model, waveform):
    """Decibels of every frame that belongs to a patch: [frames, 64]."""
    layout = ClipLayout.build((len(waveform),), model.geometry, 512, torch.device("cpu"))
    return model.audio_encoder.front_end(torch.from_numpy(waveform), layout).numpy()


def test_mel_bands_are_those_of_the_specification(tiny):
    filters = tiny().model.audio_encoder.front_end.constants(torch.device("cpu"))[1]
    assert np.abs(filters.numpy() - reference.mel_bands()).max() < 1e-7


@pytest.mark.parametrize("samples", [3200, 3359, 4001, 16000])
def test_log_mel_of_noise(tiny, samples):
    waveform = noise(samples)
    expected = reference.log_mel(waveform)
    expected = expected[: len(expected) // 4 * 4]
    assert np.abs(front_end(tiny().model, waveform) - expected).max() < 1e-3  # decibels; measured 2e-4


def test_silence_is_at_the_floor(tiny):
    assert (front_end(tiny().model, np.zeros(4000, dtype=np.float32)) == -100.0).all()


def test_nothing_is_more_than_120_db_under_the_clips_maximum(tiny):
    """A loud frame with digital silence after it: the floor is the clip's own, 120 dB down, not 1e-10."""
    waveform = np.zeros(16000, dtype=np.float32)
    waveform[:2000] = 50.0 * np.sin(2 * np.pi * 1000 / 16000 * np.arange(2000))
    got = front_end(tiny().model, waveform)
    expected = reference.log_mel(waveform)[:100]  # type: ignore[arg-type]
    assert got.min() == pytest.approx(got.max() - 120.0, abs=1e-4)
    assert got.min() > -60.0
    loud = expected > expected.max() - 80.0  # below that, float32 rounding of the transform shows
    assert np.abs(got - expected)[loud].max() < 1e-2
    assert np.abs(got[-20:] - expected[-20:]).max() < 1e-4


def test_the_loudest_frame_may_be_one_that_no_patch_has(tiny):
    """The floor is under the maximum of all frames, also of the last ones that fill no patch."""
    waveform = noise(3200 + 2 * 160) * 1e-6
    waveform[-200:] = 100.0
    expected = reference.log_mel(waveform)
    assert len(expected) == 23 and expected[20:].max() > expected[:20].max() + 1
    assert np.abs(front_end(tiny().model, waveform) - expected[:20]).max() < 1e-3


@pytest.mark.parametrize("samples", LENGTHS)
def test_audio_features(tiny, samples):
    case = tiny()
    waveform = noise(samples)
    got = case.model.encode_audio(torch.from_numpy(waveform), (samples,)).detach().numpy()
    expected = reference.audio_features(case.tensors, case.config, waveform)
    assert got.shape == expected.shape == (case.model.geometry.audio_tokens(samples), 32)
    assert np.abs(got - expected).max() < FEATURES


#: With chunks of 9 patches, these clips have a tenth that is a whole chunk, a masked one, or not there.
SMALL_CHUNKS = {6400: [(9, 9), (1, 1)], 6399: [(9, 9), (1, 0)], 6240: [(9, 9), (1, 0)], 6239: [(9, 9)]}


@pytest.mark.parametrize("samples", SMALL_CHUNKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_chunks_masks_and_layer_scale(tiny, samples, scale):
    """A chunk that may attend to nothing still has outputs, and 10 patches make 2 tokens of them."""
    case = tiny(audio_encoder_config={"target_length": 36, "init_values": scale})
    assert case.model.geometry.chunks(samples) == SMALL_CHUNKS[samples]
    scales = {f"audio_encoder.blocks.{block}.{name}.gamma" for block in (0, 1) for name in ("ls1", "ls2")}
    assert {name for name in case.tensors if "gamma" in name} == (scales if scale else set())
    waveform = noise(samples)
    layout = ClipLayout.build((samples,), case.model.geometry, 512, torch.device("cpu"))
    got = case.model.audio_encoder(torch.from_numpy(waveform), layout).detach().numpy()
    expected = reference.encode(case.tensors, case.config, waveform)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < FEATURES


@pytest.mark.parametrize(("decoder", "tie"), [("qwen2", False), ("qwen3", True), ("qwen3", False)])
def test_logits_and_loss(tiny, decoder, tie):
    """Both forwards, on rows of different lengths, against rows computed one by one."""
    case = tiny(decoder, tie=tie)
    rows = [
        case.row(5000, seed=1),
        case.row(100, prompt=6, answer=2, seed=2),
        case.row(9000, answer=7, seed=3),
    ]
    expected = [reference.logits(case.tensors, case.config, row["ids"], [row["waveform"]]) for row in rows]
    losses = [
        loss
        for logits, row in zip(expected, rows, strict=True)
        for loss in reference.cross_entropies(logits, row["labels"])
    ]
    assert len(losses) == 4 + 2 + 7
    for side in ("right", "left"):
        batch = padded(rows, side)
        with torch.no_grad():
            output = case.model(**batch)
        for index, (logits, mask) in enumerate(zip(output.logits, batch["attention_mask"], strict=True)):
            assert np.abs(logits[mask.bool()].numpy() - expected[index]).max() < LOGITS
        assert float(output.loss) == pytest.approx(np.mean(losses), abs=LOSS)
    with torch.no_grad():
        total = case.model(**packed(rows, case.placeholder)).loss_sum
    assert total.dtype == torch.float32 and total.shape == ()
    assert float(total) == pytest.approx(sum(losses), abs=LOSS * len(losses))


def test_other_rotary_base_and_shapes(tiny):
    """Nothing is hard-coded: other widths, heads, bases and factors come out as the configuration says."""
    case = tiny(
        subsample_factor=3,
        audio_encoder_config={
            "embed_dim": 24,
            "num_heads": 3,
            "depth": 1,
            "mlp_ratio": 2.0,
            "qkv_bias": False,
        },
        text_config={
            "hidden_size": 24,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "num_hidden_layers": 1,
            "rope_theta": 500.0,
            "rms_norm_eps": 1e-3,
        },
    )
    row = case.row(7000)
    expected = reference.logits(case.tensors, case.config, row["ids"], [row["waveform"]])
    with torch.no_grad():
        got = case.model(**padded([row])).logits[0].numpy()
    assert np.abs(got - expected).max() < LOGITS


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
def test_the_decoder_alone_is_the_librarys(tiny, decoder):
    """Text without audio gives what the library's own model gives, with its own attention and masks."""
    case = tiny(decoder)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 0, 0]])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    library = type(case.model.decoder)(case.model.config.text_config)
    library.load_state_dict(case.model.decoder.state_dict())
    library.set_attn_implementation("eager")
    with torch.no_grad():
        expected = library.eval()(input_ids=ids, attention_mask=mask).logits
        case.model.config.text_config._attn_implementation = "mdl_packed"
        got = case.model(input_ids=ids, attention_mask=mask).logits
    assert (got - expected)[mask.bool()].abs().max() < LOGITS
