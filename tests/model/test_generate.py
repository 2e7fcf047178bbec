"""Generation in batches: whatever the padding and the company, a prompt gets the answer it gets alone."""

from __future__ import annotations

import pytest
import torch

from support.data.rows import padded

NEW = 8
OPTIONS = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}


def prompts(case):
    rows = [case.row(3690, prompt=9, seed=1), case.row(20000, seed=2), case.row(500, prompt=5, seed=3)]
    for row in rows:
        row["ids"], row["labels"] = row["ids"][:-4], row["labels"][:-4]
    return rows


def greedy_by_hand(case, row):
    """Greedy decoding without a cache, one full forward for each token."""
    ids = list(row["ids"])
    for _ in range(NEW):
        with torch.no_grad():
            logits = case.model(
                input_ids=torch.tensor([ids]),
                input_values=torch.from_numpy(row["waveform"])[None],
                use_cache=False,
            ).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[-NEW:]


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_gives_what_each_prompt_gives_alone(tiny, decoder, side):
    case = tiny(decoder, audio_encoder_config={"target_length": 36})
    rows = prompts(case)
    expected = [greedy_by_hand(case, row) for row in rows]
    assert len({tuple(answer) for answer in expected}) == 3
    batch = padded(rows, side, labels=False)
    output = case.model.generate(**batch, **OPTIONS)
    longest = max(len(row["ids"]) for row in rows)
    assert output[:, longest:].tolist() == expected
    for ids, row in zip(output.tolist(), rows, strict=True):
        assert ids[longest - len(row["ids"]) : longest] == row["ids"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_beams_give_what_each_prompt_gives_alone(tiny, side):
    case = tiny()
    rows = prompts(case)
    options = {**OPTIONS, "num_beams": 3}
    alone = [case.model.generate(**padded([row], labels=False), **options)[0, -NEW:].tolist() for row in rows]
    together = case.model.generate(**padded(rows, side, labels=False), **options)
    assert together[:, -NEW:].tolist() == alone


@pytest.mark.parametrize(
    ("options", "returned"),
    [
        ({"num_beams": 4}, 3),
        ({"num_beams": 4, "num_return_sequences": 2}, 6),
        ({"do_sample": True, "num_return_sequences": 5}, 15),
    ],
)
def test_the_encoder_runs_once_for_each_clip(tiny, options, returned):
    """Whatever the number of beams, samples and steps."""
    case = tiny()
    rows = prompts(case)
    patches = []
    hook = case.model.audio_encoder.register_forward_hook(lambda *args: patches.append(len(args[2])))
    try:
        output = case.model.generate(**padded(rows, labels=False), **{**OPTIONS, **options})
    finally:
        hook.remove()
    assert len(output) == returned
    assert patches == [sum(case.model.geometry.patches(len(row["waveform"])) for row in rows)]


@pytest.mark.parametrize("beams", [1, 2])
def test_a_placeholder_may_be_generated(tiny, beams):
    """It is then a word like any other: no audio is missing."""
    case = tiny()
    batch = padded(prompts(case), labels=False)
    output = case.model.generate(
        **batch,
        **{**OPTIONS, "num_beams": beams},
        prefix_allowed_tokens_fn=lambda *_: [case.placeholder],
    )
    assert (output[:, -NEW:] == case.placeholder).all()


def test_prompts_without_audio(tiny):
    case = tiny()
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    expected = case.model.decoder.generate(ids, **OPTIONS)
    assert torch.equal(case.model.generate(input_ids=ids, **OPTIONS), expected)
    assert torch.equal(case.model.generate(inputs=ids, **OPTIONS), expected)


def test_sampling_is_repeatable_and_reports_scores(tiny):
    case = tiny()
    batch = padded(prompts(case), "left", labels=False)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(
            case.model.generate(
                **batch, **{**OPTIONS, "do_sample": True}, return_dict_in_generate=True, output_scores=True
            )
        )
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    assert len(outputs[0].scores) == NEW and outputs[0].scores[0].shape == (3, 1280)


def test_it_stops_at_the_end_of_the_answer(tiny):
    case = tiny()
    rows = prompts(case)
    batch = padded(rows, "left", labels=False)
    free = case.model.generate(**batch, **OPTIONS)[:, -NEW:]
    end = int(free[0, 3])
    stopped = case.model.generate(**batch, **{**OPTIONS, "eos_token_id": end})
    answer = stopped[0, batch["input_ids"].shape[1] :].tolist()
    place = answer.index(end)
    assert answer[: place + 1] == free[0, : place + 1].tolist()
    assert set(answer[place + 1 :]) <= {1}


def test_a_static_cache(tiny):
    case = tiny()
    batch = padded(prompts(case), "left", labels=False)
    expected = case.model.generate(**batch, **OPTIONS)
    got = case.model.generate(**batch, **OPTIONS, cache_implementation="static", disable_compile=True)
    assert torch.equal(got, expected)


def test_the_cache_goes_through_the_published_forward(tiny):
    """``past_key_values`` in and out, as callers of the published model have it."""
    case = tiny()
    row = prompts(case)[0]
    batch = padded([row], labels=False)
    with torch.no_grad():
        whole = case.model(**batch)
        first = case.model(**batch, use_cache=True)
        token = whole.logits[:, -1].argmax(-1, keepdim=True)
        mask = torch.ones(1, len(row["ids"]) + 1, dtype=torch.long)
        second = case.model(input_ids=token, attention_mask=mask, past_key_values=first.past_key_values)
        batch["input_ids"] = torch.cat([batch["input_ids"], token], 1)
        again = case.model(**{**batch, "attention_mask": mask})
    assert torch.allclose(first.logits, whole.logits)
    assert torch.allclose(second.logits[:, -1], again.logits[:, -1], atol=1e-5)


def test_only_the_last_logits_where_only_those_are_wanted(tiny):
    case = tiny()
    batch = padded(prompts(case)[:1], labels=False)
    with torch.no_grad():
        whole, last = case.model(**batch).logits, case.model(**batch, logits_to_keep=1).logits
    assert last.shape[1] == 1
    assert torch.allclose(last[:, 0], whole[:, -1], atol=1e-6)
