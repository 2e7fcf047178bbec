"""Packed = padded = alone, in numbers and in gradients."""

from __future__ import annotations

import pytest
import torch

from mdl_toolkit.errors import ModelError
from support.data.rows import noise, packed, padded

#: With chunks of 9 patches: a masked last patch, a whole masked chunk, several chunks, a very short clip.
SAMPLES = (3690, 6300, 20000, 120)


def rows_of(case):
    return [case.row(samples, answer=2 + i, seed=i) for i, samples in enumerate(SAMPLES)]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
def test_clips_do_not_depend_on_their_company(tiny, decoder):
    case = tiny(decoder, audio_encoder_config={"target_length": 36})
    clips = [torch.from_numpy(noise(samples, i)) for i, samples in enumerate(SAMPLES)]
    with torch.no_grad():
        together = case.model.encode_audio(torch.cat(clips), SAMPLES)
        alone = [case.model.encode_audio(clip, (len(clip),)) for clip in clips]
    assert torch.allclose(together, torch.cat(alone), atol=2e-6)  # measured 4e-7


def test_a_loud_neighbour_changes_nothing(tiny):
    """The 120 dB floor is under each clip's own maximum."""
    model = tiny().model
    quiet, loud = torch.from_numpy(noise(4000) * 1e-6), torch.from_numpy(noise(5000) * 1e3)
    with torch.no_grad():
        alone = model.encode_audio(quiet, (4000,))
        beside = model.encode_audio(torch.cat([loud, quiet]), (5000, 4000))[-len(alone) :]
    assert torch.allclose(alone, beside, atol=2e-6)


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
def test_packed_and_padded_give_the_same_loss_and_gradients(tiny, decoder):
    case = tiny(decoder, audio_encoder_config={"target_length": 36})
    rows = rows_of(case)
    case.model.train()
    output = case.model(**padded(rows))
    supervised = sum(2 + i for i in range(len(rows)))
    (output.loss * supervised).backward()
    expected = gradients(case.model)
    case.model.zero_grad()
    total = case.model(**packed(rows, case.placeholder)).loss_sum
    total.backward()
    assert total.item() == pytest.approx(output.loss.item() * supervised, rel=1e-6)
    got = gradients(case.model)
    assert set(got) == set(expected) == {name for name, _ in case.model.named_parameters()}
    for name, gradient in got.items():
        scale = expected[name].abs().max()
        assert (gradient - expected[name]).abs().max() <= 2e-5 * scale + 1e-7, name  # measured 3e-6


def test_masked_chunks_give_finite_gradients_to_everything(tiny):
    """A chunk that may attend to nothing: no NaN, forward or backward."""
    case = tiny(audio_encoder_config={"target_length": 36})
    model = case.model.train()
    waveform = torch.from_numpy(noise(6300))
    features = model.encode_audio(waveform, (6300,))
    features.square().sum().backward()
    assert features.isfinite().all()
    for name, parameter in model.named_parameters():
        if name.startswith("audio_"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_positions_count_from_0_in_each_row_whatever_the_padding(tiny):
    """Rotary angles are then those of the packed forward, also where rounding or scaling depends on them."""
    case = tiny()
    batch = padded([case.row(4000), case.row(16000)], "left")
    seen = []
    hook = case.model.decoder.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    try:
        with torch.no_grad():
            case.model(**batch)
    finally:
        hook.remove()
    for positions, mask in zip(seen[0], batch["attention_mask"].bool(), strict=True):
        assert positions[mask].tolist() == list(range(int(mask.sum())))


def test_rows_of_one_micro_batch_add_up(tiny):
    """A batch of many is the sum of batches of one, gradients too."""
    case = tiny()
    rows = rows_of(case)
    case.model(**packed(rows, case.placeholder)).loss_sum.backward()
    together = gradients(case.model)
    case.model.zero_grad()
    for row in rows:
        case.model(**packed([row], case.placeholder)).loss_sum.backward()
    for name, gradient in gradients(case.model).items():
        assert torch.allclose(gradient, together[name], atol=2e-5 * float(gradient.abs().max()) + 1e-7), name


def test_the_order_of_rows_does_not_matter(tiny):
    case = tiny()
    rows = rows_of(case)
    with torch.no_grad():
        sums = [
            float(case.model(**packed(order, case.placeholder)).loss_sum)
            for order in (rows, rows[::-1], [rows[i] for i in (2, 0, 3, 1)])
        ]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-6)


def test_gradient_checkpointing_changes_no_number(tiny):
    case = tiny(audio_encoder_config={"target_length": 36})
    batch = packed(rows_of(case), case.placeholder)
    case.model.train()
    kept = case.model(**batch).loss_sum
    kept.backward()
    expected = gradients(case.model)
    case.model.zero_grad()
    case.model.recompute_blocks()
    runs = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda *_: runs.append("encoder"))
        for block in case.model.audio_encoder.blocks
    ] + [
        layer.self_attn.register_forward_pre_hook(lambda *_: runs.append("decoder"))
        for layer in case.model.decoder.model.layers
    ]
    try:
        recomputed = case.model(**batch).loss_sum
        recomputed.backward()
    finally:
        case.model.recompute_blocks(False)
        for hook in hooks:
            hook.remove()
    assert runs.count("encoder") == runs.count("decoder") == 2 * 2  # two layers, forward and again
    assert torch.equal(recomputed, kept)
    for name, gradient in gradients(case.model).items():
        assert torch.equal(gradient, expected[name]), name


def test_checkpointing_reaches_adapters_of_a_frozen_model(tiny):
    """Nothing that enters the first blocks needs a gradient, and yet their adapters get theirs."""
    case = tiny()
    case.model.train().requires_grad_(False)
    trained = case.model.audio_encoder.blocks[0].attn.qkv.weight.requires_grad_(True)
    case.model.recompute_blocks()
    case.model(**packed(rows_of(case), case.placeholder)).loss_sum.backward()
    case.model.recompute_blocks(False)
    assert trained.grad is not None and trained.grad.abs().max() > 0


def test_init_bn_never_learns_from_a_batch(tiny):
    case = tiny()
    norm = case.model.audio_encoder.init_bn
    before = [norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()]
    batch = packed(rows_of(case), case.placeholder)
    with torch.no_grad():
        case.model.eval()
        evaluated = case.model(**batch).loss_sum
        case.model.train()
        trained = case.model(**batch).loss_sum
    assert torch.equal(evaluated, trained)
    after = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_without_audio_every_part_still_takes_part(tiny):
    """A step without clips runs the encoder all the same: processes must not wait for one another."""
    case = tiny()
    batch = packed([case.row(4000)], case.placeholder)
    batch |= {
        "input_ids": torch.arange(5, 17),
        "position_ids": torch.arange(12),
        "audio_positions": torch.empty(0, dtype=torch.long),
        "waveform": torch.empty(0),
        "audio_samples": (),
        "sequence_lengths": (12,),
        "target_positions": torch.tensor([9, 10]),
        "targets": torch.tensor([3, 4]),
    }
    case.model(**batch).loss_sum.backward()
    assert set(gradients(case.model)) == {name for name, _ in case.model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in gradients(case.model).values())
    assert gradients(case.model)["audio_projector.net.0.weight"].abs().max() == 0


def test_counted_positions_tell_padding_from_work(tiny):
    case = tiny()
    rows = [case.row(4000), case.row(16000)]
    tokens = [len(row["ids"]) for row in rows]
    patches = sum(case.model.geometry.patches(n) for n in (4000, 16000))
    with torch.no_grad():
        case.model.counted = {"computed": 0, "real": 0}
        case.model(**packed(rows, case.placeholder))
        assert case.model.counted == {"computed": sum(tokens) + patches, "real": sum(tokens) + patches}
        case.model.counted = {"computed": 0, "real": 0}
        case.model(**padded(rows))
    assert case.model.counted == {"computed": 2 * max(tokens) + patches, "real": sum(tokens) + patches}


def test_a_mismatch_names_the_row_and_both_numbers(tiny):
    case = tiny()
    rows = [case.row(4000), case.row(16000)]
    rows[1]["ids"].insert(2, case.placeholder)
    rows[1]["labels"].insert(2, -100)
    there = case.model.geometry.audio_tokens(16000)
    message = f"row 1 of the batch has {there + 1} audio placeholders, but its clip makes {there} audio"
    with pytest.raises(ModelError, match=message):
        case.model(**padded(rows))
    with pytest.raises(ModelError, match=message):
        case.model(**packed(rows, case.placeholder))


def test_rows_that_disagree_but_add_up_are_refused_too(tiny):
    case = tiny()
    rows = [case.row(4000), case.row(16000)]
    for row, change in zip(rows, (1, -1), strict=True):
        (row["ids"].insert(2, case.placeholder) if change > 0 else row["ids"].remove(case.placeholder))
        (row["labels"].insert(2, -100) if change > 0 else row["labels"].pop(2))
    with pytest.raises(ModelError, match="row 0 of the batch has"):
        case.model(**packed(rows, case.placeholder))
    with pytest.raises(ModelError, match="row 0 of the batch has"):
        case.model(**padded(rows))


def test_other_inconsistent_inputs_are_refused(tiny):
    case = tiny()
    row = case.row(4000)
    with pytest.raises(ModelError, match="but there is no audio"):
        case.model(input_ids=torch.tensor([row["ids"]]))
    with pytest.raises(ModelError, match="waveform has 10 samples, but audio_samples add up to 11"):
        case.model.encode_audio(torch.zeros(10), (11,))
    batch = packed([row], case.placeholder)
    with pytest.raises(ModelError, match="sequence_lengths add up to 3"):
        case.model(**{**batch, "sequence_lengths": (3,)})
    with pytest.raises(ModelError, match="audio_length says 4001 samples, but clips have 4000"):
        case.model(**{**padded([row]), "audio_length": [4001]})
    with pytest.raises(ModelError, match="audio_length names 2 clips, but there are 1"):
        case.model(**{**padded([row]), "audio_length": [4000, 4000]})


def test_a_row_with_two_clips(tiny):
    """Clips fill the placeholders in order, however many a row has."""
    case = tiny()
    one, two = case.row(4000, seed=1), case.row(9000, seed=2)
    ids = torch.tensor([one["ids"] + two["ids"]])
    values = padded([one, two])
    with torch.no_grad():
        logits = case.model(
            input_ids=ids, input_values=values["input_values"], audio_length=values["audio_length"]
        ).logits
        alone = case.model(**padded([one])).logits
    assert torch.allclose(logits[0, : len(one["ids"])], alone[0], atol=1e-5)


def test_clips_go_to_rows_in_order_however_they_are_spread(tiny):
    """Two clips in the first row and none in the second are as many clips as rows, and no mistake."""
    case = tiny()
    one, two, none = case.row(4000, seed=1), case.row(9000, seed=2), case.row(4000)
    none["ids"] = [token for token in none["ids"] if token != case.placeholder]
    length = len(one["ids"] + two["ids"])
    ids = torch.tensor([one["ids"] + two["ids"], none["ids"] + [0] * (length - len(none["ids"]))])
    values = padded([one, two], labels=False)
    audio = {"input_values": values["input_values"], "audio_length": values["audio_length"]}
    with torch.no_grad():
        logits = case.model(input_ids=ids, **audio).logits
        alone = case.model(input_ids=ids[:1], **audio).logits
    assert torch.allclose(logits[:1], alone, atol=1e-5)
    ids[0, 0] = case.placeholder
    with pytest.raises(ModelError, match="row 0 of the batch has"):
        case.model(input_ids=ids, **audio)
    with pytest.raises(ModelError, match="but the 2 clips make"):
        case.model(input_ids=torch.tensor([one["ids"]]), **audio)


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_mlp_sees_only_what_is_read(tiny, decoder, checkpointing):
    case = tiny(decoder)
    batch = packed(rows_of(case), case.placeholder)
    seen = []
    hooks = [
        layer.mlp.register_forward_hook(lambda module, given, made: seen.append(made.shape[1]))
        for layer in case.model.decoder.model.layers
    ]
    case.model.train()
    if checkpointing:
        case.model.recompute_blocks()
    try:
        case.model(**batch).loss_sum.backward()
        found = gradients(case.model)
        layers, tokens, targets = len(hooks), len(batch["input_ids"]), len(batch["targets"])
        assert seen[:layers] == [tokens] * (layers - 1) + [targets]
        case.model.zero_grad()
        case.model(**padded(rows_of(case))).loss.backward()
    finally:
        case.model.recompute_blocks(False)
        for hook in hooks:
            hook.remove()
    for name, gradient in gradients(case.model).items():
        assert torch.allclose(found[name], gradient * targets, rtol=1e-4, atol=2e-5), name


def test_no_target_at_all_gives_gradients_of_zero(tiny):
    case = tiny()
    batch = packed(rows_of(case), case.placeholder)
    batch["target_positions"], batch["targets"] = batch["target_positions"][:0], batch["targets"][:0]
    case.model.zero_grad()
    case.model(**batch).loss_sum.backward()
    last = case.model.decoder.model.layers[-1].mlp.down_proj.weight.grad
    assert last is not None and not last.any()
