"""Text and recordings to inputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor

from mdl_toolkit.errors import DataError, ModelError
from mdl_toolkit.model import MiDashengLMProcessor
from support.data.rows import noise

USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
CLIP = "<|audio_bos|><|AUDIO|><|audio_eos|>"


@pytest.fixture
def processor(tiny):
    return AutoProcessor.from_pretrained(tiny().folder)


def test_placeholders_are_as_many_as_features(tiny, processor):
    clips = [noise(20000), noise(700), noise(161760)]
    inputs = processor(text=[USER.format(CLIP + "what?")] * 3, audio=clips)
    assert set(inputs) == {"input_ids", "attention_mask", "input_values", "audio_length"}
    case = tiny()
    found = (inputs["input_ids"] == case.placeholder).sum(1).tolist()
    assert found == [case.model.geometry.audio_tokens(len(clip)) for clip in clips]
    assert inputs["audio_length"].tolist() == [20000, 700, 161760]
    assert inputs["input_values"].dtype == torch.float32 and inputs["input_values"].shape == (3, 161760)
    assert torch.equal(inputs["input_values"][1, :700], torch.from_numpy(clips[1]))
    assert inputs["input_values"][1, 700:].abs().max() == 0
    assert inputs["attention_mask"][1, 0] == 0 and inputs["attention_mask"][1, -1] == 1
    with torch.no_grad():
        assert case.model(**inputs).logits.isfinite().all()


def test_padding_side_and_types(processor):
    inputs = processor(text=["a", "a b c d"], padding_side="right", return_tensors="np")
    assert isinstance(inputs["input_ids"], np.ndarray)
    assert inputs["attention_mask"][0, 0] == 1 and inputs["attention_mask"][0, -1] == 0
    assert set(inputs) == {"input_ids", "attention_mask"}


def test_conversations(tiny, processor, tmp_path):
    """A path of any rate and channel count, and a waveform; the text is the checkpoint's template's."""
    path = tmp_path / "clip.wav"
    stereo = np.stack([noise(22050, 1), noise(22050, 2)], axis=1)
    soundfile.write(path, stereo, 44100, subtype="FLOAT")
    conversations = [
        [
            {
                "role": "user",
                "content": [{"type": "audio", "audio": str(path)}, {"type": "text", "text": "hi"}],
            }
        ],
        [
            {"role": "system", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "hi"}, {"type": "audio", "audio": noise(9000)}],
            },
        ],
    ]
    texts = processor.apply_chat_template(conversations, add_generation_prompt=True)
    assert texts[0] == USER.format(CLIP + "hi")
    assert texts[1] == "<|im_start|>system\nbe brief<|im_end|>\n" + USER.format("hi" + CLIP)
    inputs = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=True)
    assert inputs["audio_length"].tolist() == [8000, 9000]
    assert inputs["input_values"][0, :8000].abs().mean() > 0.01
    count = tiny().model.geometry.audio_tokens
    found = (inputs["input_ids"] == tiny().placeholder).sum(1).tolist()
    assert found == [count(8000), count(9000)]
    only_ids = processor.apply_chat_template(
        conversations[1], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert only_ids.shape[0] == 1
    answer = tiny().model.generate(**inputs, max_new_tokens=3)
    assert len(processor.batch_decode(answer, skip_special_tokens=True)) == 2


@pytest.mark.parametrize(
    ("text", "audio", "message"),
    [
        ("no place", [noise(4000)], "the text has places for 0 clips, but 1 were given"),
        (CLIP + CLIP, [noise(4000)], "the text has places for 2 clips, but 1 were given"),
        (CLIP, None, "the text has places for 1 clips, but 0 were given"),
        ("<|AUDIO|>" * 3, [noise(16000)], "row 0: the text has 3 audio placeholders, but the clip makes 5"),
        (CLIP, [np.zeros((2, 4000))], "must be mono"),
        (CLIP, [np.zeros(0)], "not empty"),
        (CLIP, [np.array([0.0, np.nan])], "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(processor, text, audio, message):
    with pytest.raises(DataError, match=message):
        processor(text=text, audio=audio)


def test_rates_pictures_and_addresses_are_refused(processor):
    with pytest.raises(DataError, match="the audio is at 8000 Hz, but the model takes 16000 Hz"):
        processor(text=CLIP, audio=noise(4000), sampling_rate=8000)
    with pytest.raises(ModelError, match="takes no images"):
        processor(text="x", images=[1])
    for source, message in (
        ("https://example.org/a.wav", "not fetched"),
        ("no such file.wav", "can't be read"),
    ):
        messages = [{"role": "user", "content": [{"type": "audio", "audio": source}]}]
        with pytest.raises(DataError, match=message):
            processor.apply_chat_template(messages, tokenize=True)
    with pytest.raises(DataError, match='needs "audio"'):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}], tokenize=True)


def test_text_that_already_has_all_placeholders(processor):
    there = processor(text=CLIP, audio=noise(16000))["input_ids"]
    again = processor(text=CLIP.replace("<|AUDIO|>", "<|AUDIO|>" * 5), audio=noise(16000))["input_ids"]
    assert torch.equal(there, again)


def test_torch_and_list_waveforms(processor):
    clip = noise(4000)
    for audio in (torch.from_numpy(clip), clip.tolist(), [torch.from_numpy(clip)], clip[None]):
        assert torch.equal(processor(text=CLIP, audio=audio)["input_values"][0], torch.from_numpy(clip))


def test_clip_arithmetic_is_the_checkpoints(tiny):
    """Placeholders follow the folder's own ``config.json``, not the usual five patches."""
    case = tiny(subsample_factor=3)
    processor = AutoProcessor.from_pretrained(case.folder)
    ids = processor(text=CLIP, audio=noise(16000))["input_ids"]
    assert int((ids == case.placeholder).sum()) == 25 // 3 == case.model.geometry.audio_tokens(16000)


def test_it_loads_without_the_models_config_and_after_saving(tiny, tmp_path, processor):
    processor.save_pretrained(tmp_path)
    assert "_geometry" not in json.loads((tmp_path / "processor_config.json").read_text())
    again = MiDashengLMProcessor.from_pretrained(tmp_path)
    assert again.geometry == tiny().model.geometry
    clip = noise(9000)
    assert torch.equal(
        again(text=CLIP, audio=clip)["input_ids"], processor(text=CLIP, audio=clip)["input_ids"]
    )
