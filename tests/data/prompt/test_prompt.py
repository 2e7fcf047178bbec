"""Text of rows: the checkpoint's own template and tokenizer, exact places of clip and answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.prompt.builder import IGNORED, PromptBuilder, default_order, processing_fingerprint
from mdl_toolkit.errors import DataError, ModelError
from support.data.clips import TINY, convert_settings, small_task

BUILDER = PromptBuilder(TINY)
START, END, AUDIO, BOS, EOS = (
    BUILDER.tokenizer.token_to_id(token)
    for token in ("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
)

# As the family's larger releases have it: a system turn of its own, and text as strings or as lists.
OMNI = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a "
    "helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'audio' %}"
    "<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As reasoning models have it: an answer begins with an empty thought, and is trimmed.
THINKING = OMNI.replace(
    "{{ m['content'] }}", "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{{ m['content'] | trim }}"
    "{% else %}{{ m['content'] }}{% endif %}"
)  # fmt: skip
# Text as lists of parts only: a string would be taken apart into letters.
LISTS = OMNI.replace("{% if m['content'] is string %}{{ m['content'] }}{% else %}", "").replace(
    "{% endfor %}{% endif %}<|im_end|>", "{% endfor %}<|im_end|>"
)
# Text of system and assistant as strings only: a list would be printed as Python shows it.
STRINGS = OMNI.replace("{% if m['content'] is string %}", "{% if m['role'] != 'user' %}")


def _folder(tmp_path: Path, template: str | None = None) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def _text(ids: np.ndarray) -> str:
    return BUILDER.decode(ids.tolist())


def test_a_row_in_full():
    row = BUILDER.encode("Be brief.", "What is said?", 3, "zero")
    assert _text(row.input_ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|audio_bos|><|AUDIO|><|AUDIO|><|AUDIO|>"
        "<|audio_eos|>What is said?<|im_end|>\n<|im_start|>assistant\nzero<|im_end|>"
    )
    assert row.input_ids.dtype == row.labels.dtype == np.int64
    answer = [*BUILDER.tokenizer.encode("zero").ids, END]
    assert row.labels.tolist() == [IGNORED] * (len(row.labels) - len(answer)) + answer
    assert row.supervised == len(answer)


def test_audio_comes_first_unless_told_otherwise():
    first, last = (
        _text(BUILDER.encode(None, "Q", 1, "a", o).input_ids) for o in ("audio-first", "text-first")
    )
    assert "<|audio_eos|>Q<|im_end|>" in first
    assert "user\nQ<|audio_bos|>" in last
    with pytest.raises(DataError, match="prompt order"):
        BUILDER.encode(None, "Q", 1, "a", "sideways")


def test_without_prompts_there_is_a_clip_and_an_answer():
    assert _text(BUILDER.encode(None, None, 1, "a").input_ids) == (
        "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|><|im_end|>\n<|im_start|>assistant\na<|im_end|>"
    )


def test_for_inference_the_text_ends_where_the_answer_begins():
    asked, answered = BUILDER.encode("S", "Q", 7, None), BUILDER.encode("S", "Q", 7, "the answer")
    assert asked.supervised == 0 and set(asked.labels) == {IGNORED}
    np.testing.assert_array_equal(asked.input_ids, answered.input_ids[: len(asked.input_ids)])
    assert answered.labels[len(asked.input_ids) - 1] == IGNORED
    assert answered.labels[len(asked.input_ids)] != IGNORED


@pytest.mark.parametrize("answer", ["assistant", "user\nassistant\n", "Q", "\n", "  x ", "", "zero<|im_"])
def test_an_answer_is_found_by_its_place_not_by_its_looks(answer: str):
    """The prompt contains the answer's text, and the words of the template."""
    row = BUILDER.encode(f"assistant {answer}", f"{answer} assistant\n{answer}", 2, answer)
    supervised = row.input_ids[row.labels != IGNORED]
    assert supervised.tolist() == [*BUILDER.tokenizer.encode(answer).ids, END]
    assert BUILDER.decode(supervised, skip_special=True) == answer


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "<|AUDIO|>", "<|endoftext|>", "<|im_start|>", "<|audio_bos|>"]
)
@pytest.mark.parametrize("what", ["prediction", "system_prompt", "user_prompt"])
def test_control_tokens_in_a_cell_are_refused(what: str, token: str):
    texts = {"system_prompt": "s", "user_prompt": "u", "prediction": "p"}
    texts[what] = f"before {token} after"
    with pytest.raises(DataError) as caught:
        BUILDER.encode(texts["system_prompt"], texts["user_prompt"], 3, texts["prediction"])
    assert what in str(caught.value) and token in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text(), st.text(), st.integers(1, 400))
def test_whatever_the_texts_the_counts_are_right(system: str, user: str, answer: str, tokens: int):
    try:
        row = BUILDER.encode(system, user, tokens, answer)
    except DataError:
        return
    assert np.count_nonzero(row.input_ids == AUDIO) == tokens
    assert row.input_ids[-1] == END == row.labels[-1]
    place = int(np.flatnonzero(row.input_ids == AUDIO)[0])
    assert row.input_ids[place - 1] == BOS and row.input_ids[place + tokens] == EOS
    assert np.count_nonzero(row.input_ids == START) == 3
    assert row.supervised == len(BUILDER.tokenizer.encode(answer).ids) + 1


@pytest.mark.parametrize("template", [None, OMNI, THINKING, LISTS, STRINGS])
def test_text_is_what_the_library_makes_of_it(tmp_path: Path, template: str | None):
    """Same tokens as transformers' own rendering and tokenizer give for the whole conversation."""
    from transformers import AutoTokenizer

    folder = _folder(tmp_path, template)
    builder = PromptBuilder(folder)
    library = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    as_list = template == LISTS
    for system, user, answer in (
        ("Listen.", "What?", "It is a tone."),
        (None, "数字?", "zero"),
        ("", "Q", " a b "),
    ):
        messages: list = [
            {"role": "user", "content": [{"type": "audio", "audio": "x"}, {"type": "text", "text": user}]}
        ]
        if system is not None:
            content = [{"type": "text", "text": system}] if as_list else system
            messages.insert(0, {"role": "system", "content": content})
        prompt = library.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert builder.decode(builder.encode(system, user, 1, None).input_ids.tolist()) == prompt
        messages.append(
            {"role": "assistant", "content": [{"type": "text", "text": answer}] if as_list else answer}
        )
        whole = library.apply_chat_template(messages, tokenize=True, return_dict=False)
        ours = builder.encode(system, user, 1, answer).input_ids.tolist()
        assert whole[: len(ours)] == ours
        assert library.decode(whole[len(ours) :]) == "\n"  # nothing is learned after the answer's end


def test_an_empty_thought_before_the_answer_is_not_learned(tmp_path: Path):
    builder = PromptBuilder(_folder(tmp_path, THINKING))
    row = builder.encode(None, "Q", 1, " a ")
    assert "<think>\n\n</think>\n\na<|im_end|>" in builder.decode(row.input_ids.tolist())
    assert builder.decode(row.input_ids[row.labels != IGNORED]) == "a<|im_end|>"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}", ""),
        (OMNI.replace("<|AUDIO|>", ""), "0 audio placeholders of 1 clip"),
        (OMNI.replace("<|AUDIO|>", "<|AUDIO|><|AUDIO|>"), "2 audio placeholders"),
        (OMNI.replace("<|im_end|>\n", "\n"), "doesn't end an answer with a special token"),
        (
            OMNI.replace(
                "{% if add_generation_prompt %}<|im_start|>assistant", "{% if add_generation_prompt %}A:"
            ),
            "asks",
        ),
        ("{{ raise_exception('only text') }}", "shows no text"),
        ("{% if %}", "not valid"),
        (OMNI.replace("{{ c['text'] }}", ""), "leaves out the prompt 'Q'"),
    ],
)
def test_templates_that_won_t_do_are_refused_by_name(tmp_path: Path, template: str, problem: str):
    folder = _folder(tmp_path, template)
    with pytest.raises(ModelError) as caught:
        PromptBuilder(folder).encode("S", "Q", 1, "a")
    assert problem in str(caught.value) and str(folder) in str(caught.value)


def test_a_template_can_t_reach_out_of_its_sandbox(tmp_path: Path):
    for attack in (
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
    ):
        folder = _folder(tmp_path / attack[4:8].strip("'._ "), attack + OMNI)
        with pytest.raises(ModelError):
            PromptBuilder(folder)


def test_places_of_a_template(tmp_path: Path):
    folder = _folder(tmp_path)
    want = BUILDER.encode("S", "Q", 1, "a").input_ids.tolist()
    plain = folder / "chat_template.jinja"
    text = plain.read_text()
    plain.unlink()
    with pytest.raises(ModelError, match="no chat template"):
        PromptBuilder(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": text}))
    assert PromptBuilder(folder).encode("S", "Q", 1, "a").input_ids.tolist() == want
    (folder / "chat_template.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "tool", "template": "x"}, {"name": "default", "template": text}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert PromptBuilder(folder).encode("S", "Q", 1, "a").input_ids.tolist() == want


def test_older_tokenizer_files_go_through_the_library(tmp_path: Path):
    folder = _folder(tmp_path)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer.json").unlink()
    row = PromptBuilder(folder).encode("S", "What is said?", 2, "zero one")
    assert row.input_ids.tolist() == BUILDER.encode("S", "What is said?", 2, "zero one").input_ids.tolist()
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        PromptBuilder(folder)


def test_damaged_model_folders_are_refused_by_name(tmp_path: Path):
    folder = _folder(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="not a tokenizer"):
        PromptBuilder(folder)
    shutil.copy(TINY / "tokenizer.json", folder)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"config\.json"):
        PromptBuilder(folder)
    (folder / "config.json").write_text(json.dumps({"audio_token_id": 5}))
    with pytest.raises(ModelError, match=f"audio_token_id 5, the tokenizer has {AUDIO}"):
        PromptBuilder(folder)
    (folder / "config.json").unlink()
    for make in (PromptBuilder, processing_fingerprint):
        with pytest.raises(ModelError, match=r"no config\.json .* name the model that they are for"):
            make(folder)


def test_the_model_says_what_order_it_was_trained_with(tmp_path: Path):
    folder = _folder(tmp_path)
    assert default_order(folder) == "audio-first"
    (folder / "mdl_toolkit.json").write_text(json.dumps({"prompts": {"order": "text-first"}}))
    assert default_order(folder) == "text-first"


def test_the_fingerprint_is_of_what_decides_the_conversion(tmp_path: Path):
    folder = _folder(tmp_path)
    same = processing_fingerprint(TINY)
    assert processing_fingerprint(folder) == same
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}, indent=4))
    (folder / "generation_config.json").unlink()
    assert processing_fingerprint(folder) == same
    changes = {
        "config.json": json.dumps({**config, "subsample_factor": 4}),
        "chat_template.jinja": OMNI,
        "tokenizer.json": (TINY / "tokenizer.json").read_text() + " ",
    }
    for name, content in changes.items():
        other = _folder(tmp_path / name)
        (other / name).write_text(content)
        assert processing_fingerprint(other) != same


def test_counts_are_checked_once_more():
    tokens = BUILDER.prepare(None, "Q", "a")
    assert tokens.length(9) == len(tokens.with_audio(9).input_ids)
    with pytest.raises(DataError, match="at least 1"):
        tokens.with_audio(0)


def _swallowing(tmp_path: Path) -> PromptBuilder:
    """With a tokenizer that leaves out zero-width spaces."""
    folder = _folder(tmp_path)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "\u200b"}, "content": ""}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return PromptBuilder(folder)


@pytest.mark.parametrize("what", ["prediction", "system_prompt", "user_prompt"])
def test_a_text_without_tokens_is_a_bad_row(tmp_path: Path, what: str):
    texts = {"system_prompt": "s", "user_prompt": "u", "prediction": "p", what: "\u200b\u200b"}
    with pytest.raises(DataError, match=f"{what} .* has no tokens"):
        _swallowing(tmp_path).encode(texts["system_prompt"], texts["user_prompt"], 3, texts["prediction"])


def test_blanks_that_the_template_leaves_out_are_no_answer(tmp_path: Path):
    template = (TINY / "chat_template.jinja").read_text(encoding="utf-8")
    trimming = template.replace("+ message['content'] ", "").replace(
        "{{- message['content'] }}", "{{- message['content'] | trim }}"
    )
    trims = PromptBuilder(_folder(tmp_path, trimming))
    assert trims._trims and not BUILDER._trims
    with pytest.raises(DataError, match=r"prediction ' ' has no tokens"):
        trims.encode(None, None, 3, " ")
    assert BUILDER.encode(None, None, 3, " ").supervised == 2
    everywhere = trimming.replace("content['text'] }}", "content['text'] | trim }}")
    everywhere_trims = PromptBuilder(_folder(tmp_path / "everywhere", everywhere))
    for what, prompts in (("system_prompt", ("\n", "u")), ("user_prompt", ("s", " "))):
        with pytest.raises(DataError, match=f"{what} .* has no tokens"):
            everywhere_trims.encode(*prompts, 3, None)
        BUILDER.encode(*prompts, 3, None)


def test_a_text_without_tokens_is_listed_among_the_bad_rows(tmp_path: Path):
    builder = _swallowing(tmp_path)
    source = small_task(tmp_path / "task", rows=2)
    source.write_text("audio,prediction\nclips/0.wav,\u200b\nclips/1.wav,x\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2: prediction .* has no tokens"):
        convert_dataset(convert_settings(source, tmp_path / "out", model_name=str(builder.folder)))
