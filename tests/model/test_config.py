"""Configurations: read into the library's terms, written back as they were published."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, Qwen2Config, Qwen3Config

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model import DashengConfig, MiDashengLMConfig, decoder_config
from support.models.tiny import tiny_config


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
def test_every_foreign_field_survives(tmp_path, decoder):
    """Fields of the publisher's own code, unknown ones, generation settings: all back, nothing added."""
    published = tiny_config(
        decoder,
        strange={"nested": [1, {"a": None}]},
        _name_or_path="somebody/something",
        temperature=0.7,
        num_beams=4,
        is_encoder_decoder=False,
        pad_token_id=None,
        text_config={"use_bfloat16": True, "another": [1, 2], "id2label": {"0": "x"}},
        audio_encoder_config={"pooling": "token", "spectransforms": None},
    )
    (tmp_path / "config.json").write_text(json.dumps(published))
    for config in (
        AutoConfig.from_pretrained(tmp_path),
        MiDashengLMConfig.from_pretrained(tmp_path),
        MiDashengLMConfig(**published),
    ):
        assert type(config) is MiDashengLMConfig
        assert config.to_dict() == published
        assert json.loads(config.to_json_string()) == published
        config.save_pretrained(tmp_path / "again")
        assert json.loads((tmp_path / "again" / "config.json").read_text()) == published


def test_a_model_leaves_its_config_as_it_was(tiny):
    case = tiny()
    assert case.model.config.to_dict() == case.config


def test_what_was_changed_is_written(tmp_path):
    config = MiDashengLMConfig(**tiny_config())
    config.text_config.vocab_size = 2000
    config.audio_token_id = 7
    config.dtype = torch.bfloat16
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    expected = tiny_config(audio_token_id=7, text_config={"vocab_size": 2000}, torch_dtype="bfloat16")
    assert written == expected


def test_omni_text_is_plain_qwen2():
    """Mrope with equal rows is plain rotary embedding, with the published base."""
    text = tiny_config()["text_config"]
    config = decoder_config(text)
    assert type(config) is Qwen2Config
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1000000.0}
    assert config.tie_word_embeddings is False
    assert (config.hidden_size, config.num_key_value_heads) == (32, 2)


@pytest.mark.parametrize(
    ("change", "theta"),
    [
        ({"rope_theta": 5000.0}, 5000.0),
        ({"rope_theta": None, "rope_scaling": {"rope_type": "default", "rope_theta": 777.0}}, 777.0),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "mrope", "rope_theta": 888.0}}, 888.0),
        ({"rope_theta": None}, 1000000.0),
    ],
)
def test_the_rotary_base_is_found_wherever_it_is(change, theta):
    text = {**tiny_config()["text_config"], **change}
    assert decoder_config(text).rope_parameters == {"rope_type": "default", "rope_theta": theta}


def test_a_real_rotary_scaling_is_kept():
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    text = {**tiny_config("qwen3")["text_config"], "rope_scaling": scaling}
    config = decoder_config(text)
    assert type(config) is Qwen3Config
    assert config.rope_parameters["rope_type"] == "yarn" and config.rope_parameters["factor"] == 4.0
    assert config.rope_parameters["rope_theta"] == 1000000.0


def test_the_text_config_is_not_changed_by_reading_it():
    text = tiny_config()["text_config"]
    decoder_config(text)
    assert text == tiny_config()["text_config"]


def test_other_decoders_are_refused_by_name():
    with pytest.raises(ModelError, match=r"text_config\.model_type is 'llama'"):
        MiDashengLMConfig(**tiny_config(text_config={"model_type": "llama"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": [32, 4]}, "must span all 64 mel bands"),
        ({"patch_stride": [64, 2]}, "must equal patch_size"),
        ({"input_channels": 2}, "only 1 is supported"),
        ({"center": False}, "only centred frames"),
        ({"num_heads": 5}, "no multiple of num_heads 5"),
    ],
)
def test_shapes_that_would_come_out_wrong_are_refused(change, message):
    config = MiDashengLMConfig(**tiny_config(audio_encoder_config=change))
    with pytest.raises(ModelError, match=message):
        config.audio_encoder_config.check()


def test_an_omitted_upper_edge_is_half_the_sample_rate():
    from mdl_toolkit.model.frontend import MelFrontend

    device = torch.device("cpu")
    default, explicit = (MelFrontend(DashengConfig(f_max=edge)).constants(device) for edge in (None, 8000.0))
    assert torch.equal(default[1], explicit[1])


def test_geometry_comes_from_the_config():
    config = MiDashengLMConfig(**tiny_config(subsample_factor=3, audio_encoder_config={"target_length": 100}))
    assert config.geometry.chunk_patches == 25
    assert config.geometry.audio_tokens(16000) == 25 // 3
