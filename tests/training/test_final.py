"""``final/`` is what was validated, or says by how much it isn't."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import MdlError, Stopped
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.training import final as final_module
from mdl_toolkit.training.run import train
from mdl_toolkit.training.trainable.prepare import open_for_evaluation
from mdl_toolkit.training.trainable.wrap import Wrapped
from support.models.tiny import in_bfloat16, make_model_folder
from support.training.runs import assert_same_bytes, metrics_of, run_settings

UP = "decoder.model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in bfloat16, as the published ones are."""
    return in_bfloat16(make_model_folder(tmp_path_factory.mktemp("final") / "half"))


def _loss(folder: Path, data: Path) -> float:
    """Of a folder's model on a dataset, in float32."""
    from support.models.batches import collate

    model: Any = load_model(folder, dtype=torch.float32).eval()
    rows = ClipDataset.open([data])
    batch = collate([rows[index] for index in range(len(rows))], model.config.audio_token_id)
    with torch.no_grad():
        return float(model(**batch.model_inputs()).loss_sum) / len(batch.targets)


def _evaluated(output: Path) -> dict[str, Any] | None:
    return next((line for line in metrics_of(output) if "final_eval_loss" in line), None)


def _dtype(output: Path) -> torch.dtype:
    return WeightFiles(output / "final")[UP].dtype


#: Updates of some 1e-6, far below the distance between two numbers of bfloat16.
_SMALL: dict[str, Any] = {"method": "full", "lr": 1e-6, "max_steps": 3}
#: A run whose final/ is evaluated anew.
_ROUNDED: dict[str, Any] = {"max_steps": 2, "final_dtype": "base"}


def test_small_updates_of_a_bfloat16_base_are_not_rounded_away(
    shop: Any, half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    train(run_settings(half, shop.data, output, eval_dataset=str(shop.held_out), **_SMALL))
    assert _dtype(output) == torch.float32
    assert json.loads((output / "final" / "config.json").read_text())["torch_dtype"] == "float32"
    validated = [line["eval_loss"] for line in metrics_of(output) if "eval_loss" in line][-1]
    assert _loss(output / "final", shop.held_out) == pytest.approx(validated, rel=1e-6)
    told = capfd.readouterr().err
    said = re.search(
        r"final is float32: rounding to the dtype of the base would leave ([\d.]+ %) of what (\w+) learned "
        r"(\(encoder [\d.]+ %, projector [\d.]+ %, decoder [\d.]+ %\)), and [\d.]+ % of the changed weights",
        told,
    )
    assert said is not None
    shares = {name: float(share) for name, share in re.findall(r"(\w+) ([\d.]+) %", said[3])}
    assert shares[said[2]] == min(shares.values()) and said[1] == f"{shares[said[2]]:.1f} %"
    assert "--final-dtype base" in told
    # Nothing was rounded, so there is nothing to evaluate anew.
    assert _evaluated(output) is None


def test_what_rounding_takes_is_warned_of_and_measured(
    shop: Any, half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    train(
        run_settings(half, shop.data, output, eval_dataset=str(shop.held_out), final_dtype="base", **_SMALL)
    )
    assert _dtype(output) == torch.bfloat16
    told = capfd.readouterr().err
    assert re.search(
        r"warning: \S+final is bfloat16: rounding leaves [\d.]+ % of what was learned.*"
        r"--final-dtype float32 keeps all of it",
        told,
    )
    found = _evaluated(output)
    validated = [line["eval_loss"] for line in metrics_of(output) if "eval_loss" in line][-1]
    assert found is not None and found["validated_eval_loss"] == validated and found["train_runtime"] > 0
    assert found["final_eval_loss"] == pytest.approx(_loss(output / "final", shop.held_out), rel=1e-5)
    assert abs(found["final_eval_loss"] - validated) > 1e-6 * validated
    said = re.search(
        r"evaluation of \S+final as it is: loss (\S+) on 11 rows .*in training it was (\S+)", told
    )
    assert said is not None
    assert said.groups() == (f"{found['final_eval_loss']:.4f}", f"{validated:.4f}")


def test_a_run_in_bfloat16_has_rounded_already(
    shop: Any, half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    train(run_settings(half, shop.data, output, **{**_SMALL, "bf16": True}))
    assert _dtype(output) == torch.bfloat16
    told = capfd.readouterr().err
    assert "final is bfloat16, rounded as during training" in told and "warning" not in told


def test_large_updates_keep_the_dtype_of_the_base(
    shop: Any, half: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    train(run_settings(half, shop.data, output, method="full", lr=1e-2, max_steps=3))
    assert _dtype(output) == torch.bfloat16
    told = capfd.readouterr().err
    assert re.search(r"final is bfloat16: rounding leaves (9\d\.\d|100) % of what was learned", told)
    assert "warning" not in told
    assert _evaluated(output) is None, "there is nothing to evaluate on"


def test_options_of_a_form_that_there_is_not_are_refused(shop: Any, tmp_path: Path) -> None:
    def problems(**changes: Any) -> str:
        return " ".join(run_settings(shop.model, shop.data, tmp_path / "out", **changes).problems())

    assert "--merge-onto goes with --quantization" in problems(merge_onto="original")
    assert "--merge-onto goes" in problems(merge_onto="quantized", quantization="4bit", merge_lora=False)
    assert "an adapter is float32 always" in problems(final_dtype="bfloat16", merge_lora=False)
    assert "--final-dtype" not in problems(final_dtype="float16", method="full")


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_quantised_run_ships_what_it_validated(
    shop: Any, tmp_path: Path, quantization: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    found = {}
    for onto in (None, "original"):
        output = tmp_path / str(onto)
        train(
            run_settings(
                shop.model, shop.data, output, quantization=quantization, merge_onto=onto, max_steps=6,
                lr=1e-2, eval_dataset=str(shop.held_out),
            )
        )  # fmt: skip
        line = _evaluated(output)
        assert line is not None
        assert line["final_eval_loss"] == pytest.approx(_loss(output / "final", shop.held_out), rel=1e-5)
        found[onto] = abs(line["final_eval_loss"] - line["validated_eval_loss"])
    assert "in training it was" in capfd.readouterr().err
    if quantization == "4bit":
        # 8-bit layers round what goes into them too: in a model as small as this, as much as the weights.
        assert found[None] < 1e-4 < found["original"]
    base = WeightFiles(shop.model)
    query = "decoder.model.layers.0.self_attn.q_proj.weight"
    original, quantised = (
        WeightFiles(tmp_path / name / "final").tensor(query) for name in ("original", "None")
    )
    assert torch.equal(original, base.tensor(query))
    assert not torch.equal(quantised, original), "no adapter is on it, but the run had it quantised"


def test_a_float32_base_is_neither_rounded_nor_evaluated_anew(
    shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    train(run_settings(shop.model, shop.data, output, max_steps=2, eval_dataset=str(shop.held_out)))
    told = capfd.readouterr().err
    assert "rounding" not in told and "as it is" not in told and _evaluated(output) is None


def test_it_is_made_of_the_checkpoint_that_a_finished_run_is_gone_on_with(shop: Any, tmp_path: Path) -> None:
    output, options = tmp_path / "out", {"max_steps": 3, "save_steps": 2}
    train(run_settings(shop.model, shop.data, output, **options))
    kept = shutil.copytree(output / "final", tmp_path / "kept")
    shutil.move(output / "checkpoint-3", tmp_path / "checkpoint-3")
    shutil.rmtree(output)
    train(
        run_settings(
            shop.model, shop.data, output, **options, resume_from_checkpoint=str(tmp_path / "checkpoint-3")
        )
    )
    assert_same_bytes(output / "final", Path(kept))


def test_a_signal_while_it_is_evaluated_leaves_it_ready(
    shop: Any, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = open_for_evaluation

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(final_module, "open_for_evaluation", interrupted)
    output = tmp_path / "out"
    with pytest.raises(Stopped, match="final is ready, its evaluation was left out") as stopped:
        train(run_settings(half, shop.data, output, **_ROUNDED, eval_dataset=str(shop.held_out)))
    assert stopped.value.exit_code == 143
    assert WeightFiles(output / "final")


def test_memory_that_is_short_then_costs_the_evaluation_alone(
    shop: Any, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def short(*_: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")

    monkeypatch.setattr(final_module, "open_for_evaluation", short)
    output = tmp_path / "out"
    train(run_settings(half, shop.data, output, **_ROUNDED, eval_dataset=str(shop.held_out)))
    assert "final isn't evaluated again: tried to allocate" in capfd.readouterr().err
    assert WeightFiles(output / "final") and _evaluated(output) is None


def test_where_the_whole_model_does_not_fit_it_is_not_tried(
    shop: Any, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run on quantised weights may be at home where its own merged model isn't."""
    monkeypatch.setattr(final_module, "available_bytes", lambda *_: 1000)
    output = tmp_path / "out"
    train(run_settings(half, shop.data, output, **_ROUNDED, eval_dataset=str(shop.held_out)))
    told = capfd.readouterr().err
    assert re.search(r"final isn't evaluated again: its weights take \S+ GiB, and 0.00 GiB are free", told)
    assert WeightFiles(output / "final") and _evaluated(output) is None


def test_a_final_that_fails_leaves_the_runs_numbers(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MdlError("no room")

    monkeypatch.setattr(final_module, "export_merged", full)
    with pytest.raises(MdlError, match="no room"):
        train(run_settings(shop.model, shop.data, tmp_path / "out", max_steps=2))
    assert metrics_of(tmp_path / "out")[-1]["train_runtime"] > 0


def test_the_models_memory_is_given_back_first(
    shop: Any, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    seen: list[Any] = []
    original, release = open_for_evaluation, Wrapped.release

    def noted(self: Any) -> None:
        seen.extend(map(weakref.ref, self.model.parameters()))
        release(self)

    def opened(*arguments: Any) -> Any:
        gc.collect()
        assert seen and not [reference for reference in seen if reference() is not None]
        return original(*arguments)

    monkeypatch.setattr(Wrapped, "release", noted)
    monkeypatch.setattr(final_module, "open_for_evaluation", opened)
    output = tmp_path / "out"
    train(run_settings(half, shop.data, output, **_ROUNDED, eval_dataset=str(shop.held_out)))
    assert _evaluated(output) is not None
