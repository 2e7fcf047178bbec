"""The whole run, from settings to final/, in this process."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import DataError, SettingsError
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.training.run import train
from support.models.batches import collate
from support.training.runs import make_dataset, metrics_of, run_settings, steps_of, weights_of

STEP_KEYS = {
    "step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "supervised_tokens", "audio_tokens",
    "padding_share", "clips", "memory", "seconds",
}  # fmt: skip


def test_a_run_leaves_metrics_checkpoints_and_a_model(
    shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    output = tmp_path / "out"
    train(
        run_settings(
            shop.model, shop.data, output, eval_dataset=str(shop.held_out), save_steps=0.5, eval_steps=4
        )
    )

    data = ClipDataset.open([shop.data])
    lines = metrics_of(output)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(line.keys() == STEP_KEYS for line in steps)
    assert sum(line["tokens"] for line in steps) == data.tokens.sum()
    assert sum(line["supervised_tokens"] for line in steps) == data.supervised.sum()
    assert sum(line["audio_tokens"] for line in steps) == sum(
        data.geometry.audio_tokens(int(n)) for n in data.samples
    )
    assert sum(line["clips"] for line in steps) == len(data)
    assert all(line["padding_share"] == 0.0 for line in steps), "nothing is padded in packed batches"
    assert steps[-1]["epoch"] == 1.0
    assert steps[0]["learning_rate"] == pytest.approx(1e-3) and steps[3]["learning_rate"] == pytest.approx(
        5e-4
    )
    assert [line["step"] for line in lines if "eval_loss" in line] == [4, 6]
    assert {"train_runtime", "train_samples_per_second", "total_flos"} <= lines[-1].keys()
    assert lines[-1]["total_clips"] == 24

    assert {path.name for path in output.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    changed = [
        name
        for name, tensor in weights_of(shop.model).items()
        if not torch.equal(tensor, weights_of(output / "final")[name])
    ]
    assert changed and all(part in name for name in changed for part in (".weight",)), (
        "the merged model has the base's tensors, some of them trained"
    )
    assert not list(output.glob(".partial-*"))

    shown = capfd.readouterr().err
    assert "loss" in shown and "learning rate" in shown
    assert "in loading" in shown and "in training" in shown
    assert f"{output / 'final'} is ready" in shown


def test_the_loss_is_the_mean_over_supervised_tokens(shop, tmp_path: Path):
    """Against logits of all positions and a loop over tokens."""
    from mdl_toolkit.model_folders.load import load_model

    train(run_settings(shop.model, shop.data, tmp_path / "out", batch_size=24, max_steps=1))
    model = load_model(shop.model)
    data = ClipDataset.open([shop.data])
    total, count = 0.0, 0
    for example in (data[i] for i in range(len(data))):
        ids = torch.tensor(example.input_ids)[None]
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                input_values=torch.tensor(example.waveform)[None],
                audio_length=[len(example.waveform)],
            ).logits[0]
        for position, label in enumerate(example.labels):
            if label != -100:
                total -= float(torch.log_softmax(logits[position - 1].double(), -1)[label])
                count += 1
    assert steps_of(tmp_path / "out")[0]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_evaluation_counts_every_row_once(shop, tmp_path: Path):
    from mdl_toolkit.model_folders.load import load_model

    output = tmp_path / "out"
    settings = run_settings(
        shop.model, shop.data, output, eval_dataset=str(shop.held_out), eval_batch_size=4, max_steps=2
    )
    train(settings)
    model = load_model(output / "final").eval()
    data = ClipDataset.open([shop.held_out])
    total = 0.0
    for i in range(len(data)):
        batch = collate([data[i]], model.config.audio_token_id)
        with torch.no_grad():
            total += float(model(**batch.model_inputs()).loss_sum)
    found = [line["eval_loss"] for line in metrics_of(output) if "eval_loss" in line]
    assert found == [pytest.approx(total / data.supervised.sum(), rel=1e-5)]


def test_a_warm_up_that_never_ends_is_warned_of_with_the_highest_rate(
    shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    train(run_settings(shop.model, shop.data, tmp_path / "out", max_steps=3, warmup_steps=50))
    highest = max(line["learning_rate"] for line in steps_of(tmp_path / "out"))
    assert highest == pytest.approx(4e-5)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: the warm-up")]
    assert len(said) == 1
    assert "takes 50 steps and the run has no more than 3: its learning rate rises to 4e-05" in said[0]
    assert "never gets to --lr 0.001" in said[0] and "--warmup-ratio" in said[0]


def test_a_warm_up_as_a_share_goes_on_when_the_run_does(
    shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    options = {"warmup_ratio": 0.5, "save_steps": 1, "lr_scheduler": "constant"}
    output = tmp_path / "out"
    train(run_settings(shop.model, shop.data, output, **options))
    rates = [line["learning_rate"] for line in steps_of(output)]
    assert rates == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3])
    for step in range(3, 7):
        shutil.rmtree(output / f"checkpoint-{step}")
    train(run_settings(shop.model, shop.data, output, **options, resume_from_checkpoint="true"))
    assert [line["learning_rate"] for line in steps_of(output)] == rates
    assert "warning: the warm-up" not in capfd.readouterr().err


@pytest.mark.parametrize("changes", [{"eval_batch_size": 3}, {"max_tokens": 64}])
def test_evaluation_is_the_same_in_batches_of_any_kind(shop, tmp_path: Path, changes: dict[str, int]):
    losses = []
    for name, kinds in (("a", {"eval_batch_size": 11}), ("b", changes)):
        # A learning rate of next to nothing: both evaluate the same weights.
        output = tmp_path / name
        train(
            run_settings(
                shop.model, shop.data, output, eval_dataset=str(shop.held_out), max_steps=1, lr=1e-12, **kinds
            )
        )
        losses += [line["eval_loss"] for line in metrics_of(output) if "eval_loss" in line]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_batch_of_8_is_two_accumulated_of_4(shop, tmp_path: Path):
    common = {"lora_dropout": 0.0, "num_epochs": 2, "merge_lora": False}
    train(run_settings(shop.model, shop.data, tmp_path / "a", batch_size=8, **common))
    train(
        run_settings(
            shop.model, shop.data, tmp_path / "b", batch_size=4, gradient_accumulation_steps=2, **common
        )
    )
    one, two = steps_of(tmp_path / "a"), steps_of(tmp_path / "b")
    assert len(one) == len(two) == 6
    for key in ("loss", "grad_norm", "tokens", "learning_rate"):
        np.testing.assert_allclose([s[key] for s in one], [s[key] for s in two], rtol=2e-5, err_msg=key)
    first, second = weights_of(tmp_path / "a" / "final"), weights_of(tmp_path / "b" / "final")
    scale = max(float(tensor.abs().max()) for tensor in first.values())
    for name, tensor in first.items():
        # Adam divides by a gradient's own size: where that is rounding, so is the direction of its step.
        assert float((tensor - second[name]).abs().max()) < 5e-4 * scale, name


def test_packing_by_tokens_trains_every_row_once(shop, tmp_path: Path):
    train(run_settings(shop.model, shop.data, tmp_path / "out", max_tokens=150))
    steps = steps_of(tmp_path / "out")
    assert all(step["tokens"] <= 150 for step in steps)
    assert sum(step["clips"] for step in steps) == 24


def test_full_training_changes_the_chosen_parts_alone(shop, tmp_path: Path):
    train(
        run_settings(
            shop.model, shop.data, tmp_path / "out", method="full", train_target=["projector"], max_steps=2
        )
    )
    base, final = weights_of(shop.model), weights_of(tmp_path / "out" / "final")
    changed = {name for name in base if name in final and not torch.equal(base[name], final[name])}
    assert changed == {name for name in base if name.startswith("audio_projector.")}
    assert (tmp_path / "out" / "checkpoint-2" / "overlay.safetensors").is_file()


def test_the_adapter_alone_with_merge_lora_false(shop, tmp_path: Path):
    from mdl_toolkit.model_folders.load import load_model

    data = ClipDataset.open([shop.data])
    batch = collate([data[i] for i in range(6)], data.manifest.audio_token_id)
    losses = []
    for name, merge in (("merged", True), ("adapter", False)):
        train(run_settings(shop.model, shop.data, tmp_path / name, max_steps=3, merge_lora=merge))
        model = load_model(tmp_path / name / "final").eval()
        with torch.no_grad():
            losses.append(float(model(**batch.model_inputs()).loss_sum))
    assert (tmp_path / "adapter" / "final" / "adapter_model.safetensors").is_file()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_without_a_lora_layer_there_is_no_adapter_and_the_head_is_kept_as_it_is(shop, tmp_path: Path):
    """PEFT opens no adapter without target modules."""
    output = tmp_path / "out"
    train(
        run_settings(shop.model, shop.data, output, train_target=["lm_head"], merge_lora=False, max_steps=2)
    )
    for folder in (output / "final", output / "checkpoint-2"):
        assert json.loads((folder / "mdl_toolkit.json").read_text())["kind"] == "overlay"
        assert set(weights_of(folder)) == {"decoder.lm_head.weight"}
    opened = load_model(output / "final")
    assert torch.equal(opened.decoder.lm_head.weight, weights_of(output / "final")["decoder.lm_head.weight"])


def test_a_bad_row_is_named(shop, tmp_path: Path):
    data = make_dataset(tmp_path / "data", shop.model, rows=6, broken=[3])
    with pytest.raises(DataError, match=r"train\.csv row 5 \(clip3\.wav\)"):
        train(run_settings(shop.model, data, tmp_path / "out"))


def test_rows_without_answers_are_refused(shop, tmp_path: Path):
    data = make_dataset(tmp_path / "data", shop.model, rows=3, answers=False)
    with pytest.raises(DataError, match="prediction"):
        train(run_settings(shop.model, data, tmp_path / "out"))


def test_workers_prepare_the_same_batches(shop, tmp_path: Path):
    train(run_settings(shop.model, shop.data, tmp_path / "a", max_steps=8))
    train(run_settings(shop.model, shop.data, tmp_path / "b", max_steps=8, data_workers=2))
    keys = STEP_KEYS - {"memory", "seconds"}
    assert [{k: s[k] for k in keys} for s in steps_of(tmp_path / "a")] == [
        {k: s[k] for k in keys} for s in steps_of(tmp_path / "b")
    ]


def test_a_bad_row_in_a_worker_is_named_too(shop, tmp_path: Path):
    data = make_dataset(tmp_path / "data", shop.model, rows=6, broken=[3])
    with pytest.raises(DataError, match=r"train\.csv row 5 \(clip3\.wav\)"):
        train(run_settings(shop.model, data, tmp_path / "out", data_workers=1))


def test_tensorboard_gets_the_numbers(shop, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "out"
    train(run_settings(shop.model, shop.data, output, report_to=["tensorboard"], max_steps=3))
    events = EventAccumulator(str(output / "runs" / "out"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        [step["loss"] for step in steps_of(output)]
    )


@pytest.mark.parametrize("name", ["nonsense", "mlflow"])
def test_a_tracker_that_is_not_there_is_told_before_training(shop, tmp_path: Path, name: str):
    with pytest.raises(SettingsError, match=f"--report-to {name}: "):
        train(run_settings(shop.model, shop.data, tmp_path / "out", report_to=[name]))
    assert not (tmp_path / "out").exists()


def test_no_tracker_for_those_who_say_none(shop, tmp_path: Path):
    train(run_settings(shop.model, shop.data, tmp_path / "out", report_to=["none"], max_steps=1))
    assert not (tmp_path / "out" / "runs").exists()


def test_folders_say_what_they_are(shop, tmp_path: Path):
    output = tmp_path / "out"
    train(run_settings(shop.model, shop.data, output, max_steps=2))
    for folder, kind in ((output / "final", "model"), (output / "checkpoint-2", "adapter")):
        told = json.loads((folder / "mdl_toolkit.json").read_text())
        assert told["kind"] == kind
        assert told["prompts"]["seen"] == [{"system_prompt": None, "user_prompt": "What is it?", "rows": 24}]
        assert told["dataset"]["longest_answer_tokens"] == ClipDataset.open([shop.data]).supervised.max()
        assert told["training"]["step"] == 2 and told["dataset"]["fingerprint"] == "test-24-0"
        assert told["options"]["lora_rank"] == 4 and "torch" in told["versions"]


def test_steps_without_clipping_have_the_true_norm(shop, tmp_path: Path):
    train(run_settings(shop.model, shop.data, tmp_path / "a", max_steps=1, max_grad_norm=0))
    train(run_settings(shop.model, shop.data, tmp_path / "b", max_steps=1, max_grad_norm=1e-3))
    norms = [steps_of(tmp_path / name)[0]["grad_norm"] for name in "ab"]
    assert norms[0] == norms[1] > 1e-3 and math.isfinite(norms[0])


def test_the_function_is_there_under_the_name_that_users_import(shop, tmp_path: Path):
    import mdl_toolkit

    mdl_toolkit.train(run_settings(shop.model, shop.data, tmp_path / "out", max_steps=1))
    assert (tmp_path / "out" / "final").is_dir()
