"""At the end of a run ``best/`` is a model in the form of ``final/``."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mdl_toolkit.errors import MdlError, Stopped
from mdl_toolkit.model_folders.export import export_merged
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.model_folders.manifest import ModelManifest
from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.training.best import finish
from mdl_toolkit.training.checkpoints.output import foreign_file_in
from mdl_toolkit.training.run import train
from support.training.runs import assert_same_bytes, run_settings, weights_of
from support.training.scripted import Scripted

#: Of three steps the second is the best.
LOSSES = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.6}
#: The last one is the best.
FALLING = {1: 3.0, 2: 2.0, 3: 1.0}
OPTIONS: dict[str, Any] = {"max_steps": 3, "eval_steps": 1, "save_steps": 1, "metric_for_best": "loss"}


def settings_of(shop: Any, output: Path, **changes: Any) -> Any:
    return run_settings(
        shop.model, shop.data, output, **{**OPTIONS, "eval_dataset": str(shop.held_out), **changes}
    )


def manifest_of(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "mdl_toolkit.json").read_text())
    return told


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_is_the_base_with_what_was_trained_up_to_then(shop: Any, tmp_path: Path, monkeypatch, method: str):
    output, expected = tmp_path / "out", tmp_path / "expected"
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output, method=method))
    trained = TrainedWeights.read(output / "checkpoint-2")
    export_merged(shop.model, trained, expected, ModelManifest(kind="model"))
    assert_same_bytes(output / "best", expected)
    assert {path.name for path in (output / "best").iterdir()} == {
        path.name for path in (output / "final").iterdir()
    }
    told = manifest_of(output / "best")
    assert told["kind"] == "model" and told["training"]["step"] == 2
    assert told["training"]["best"]["value"] == 2.0
    assert foreign_file_in(output / "best") is None
    assert load_model(output / "best") is not None


def test_an_adapter_stays_one(shop: Any, tmp_path: Path, monkeypatch, capfd):
    output = tmp_path / "out"
    Scripted(FALLING).installed(monkeypatch)
    train(settings_of(shop, output, merge_lora=False))
    assert_same_bytes(output / "best", output / "final")
    assert manifest_of(output / "best")["kind"] == "adapter"
    assert f"{output / 'best'} is the same model as {output / 'final'}" in capfd.readouterr().err


@pytest.mark.parametrize("links", [True, False])
def test_the_last_one_is_not_written_twice(shop: Any, tmp_path: Path, monkeypatch, capfd, links: bool):
    output = tmp_path / "out"
    if not links:

        def refuse(*_: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(finish, "export_merged", None)
    Scripted(FALLING).installed(monkeypatch)
    train(settings_of(shop, output))
    assert f"{output / 'best'} is the same model as {output / 'final'}" in capfd.readouterr().err
    best, final = output / "best" / "model.safetensors", output / "final" / "model.safetensors"
    assert best.samefile(final) is links
    assert_same_bytes(output / "best", output / "final")
    assert manifest_of(output / "best")["training"]["best"]["value"] == 1.0
    assert "best" not in manifest_of(output / "final")["training"]
    assert foreign_file_in(output / "best") is None and foreign_file_in(output / "final") is None


def test_a_signal_leaves_it_as_it_was_and_the_resumed_run_finishes_it(shop: Any, tmp_path: Path, monkeypatch):
    output = tmp_path / "out"
    Scripted(LOSSES).installed(monkeypatch)

    def told(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal ends this")

    with monkeypatch.context() as patch:
        patch.setattr(finish, "export_merged", told)
        with pytest.raises(Stopped, match=r"all steps are saved, .*best is as it was kept"):
            train(settings_of(shop, output))
    assert manifest_of(output / "best")["kind"] == "adapter"
    assert load_model(output / "best") is not None
    _finishes(shop, output)


def test_a_full_disk_is_told_with_a_remedy(shop: Any, tmp_path: Path, monkeypatch):
    output = tmp_path / "out"
    Scripted(LOSSES).installed(monkeypatch)

    with monkeypatch.context() as patch:
        patch.setattr("mdl_toolkit.model_folders.export._lay_out", _full_for(output / ".partial-best"))
        with pytest.raises(
            MdlError, match=r"best.*No space left on device.*make room, then resume"
        ) as caught:
            train(settings_of(shop, output))
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert (output / "final" / "model.safetensors").is_file()
    assert manifest_of(output / "best")["kind"] == "adapter"
    _finishes(shop, output)


def _full_for(beginning: Path) -> Any:
    from mdl_toolkit.model_folders import export

    original = export.__dict__["_lay_out"]

    def lay_out(base: Any, file: Path, copy: Path, dtype: Any) -> None:
        if str(copy).startswith(str(beginning)):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(base, file, copy, dtype)

    return lay_out


def _finishes(shop: Any, output: Path) -> None:
    train(settings_of(shop, output, resume_from_checkpoint="true"))
    assert manifest_of(output / "best")["kind"] == "model"
    assert manifest_of(output / "best")["training"]["step"] == 2


def test_what_comes_into_its_way_meanwhile_is_not_removed(shop: Any, tmp_path: Path, monkeypatch):
    output = tmp_path / "out"
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output, merge_lora=False))
    (output / "best" / "notes.txt").write_text("mine")
    with pytest.raises(MdlError, match=r"notes.txt is in the way and was not written by a run"):
        train(settings_of(shop, output, resume_from_checkpoint="true"))
    assert (output / "best" / "notes.txt").read_text() == "mine"


def test_a_run_made_longer_keeps_the_best_of_before(shop: Any, tmp_path: Path, monkeypatch):
    """Which is merged already; a better one takes its place."""
    output = tmp_path / "out"
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output))
    before = weights_of(output / "best")
    train(settings_of(shop, output, max_steps=4, resume_from_checkpoint="true"))
    after = weights_of(output / "best")
    assert all(torch.equal(before[name], after[name]) for name in before)
    shutil.rmtree(output / "checkpoint-4")
    Scripted({4: 1.0}).installed(monkeypatch)
    train(settings_of(shop, output, max_steps=4, resume_from_checkpoint="true"))
    assert manifest_of(output / "best")["training"]["step"] == 4
    assert_same_bytes(output / "best", output / "final")


def test_a_quantised_run_merges_both_alike(shop: Any, tmp_path: Path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    output = tmp_path / "out"
    Scripted(LOSSES).installed(monkeypatch)
    train(settings_of(shop, output, quantization="4bit"))
    best, final = weights_of(output / "best"), weights_of(output / "final")
    base = weights_of(shop.model)
    decoder = [name for name in best if "mlp.up_proj" in name]
    assert decoder and all(not torch.equal(best[name], final[name]) for name in decoder)
    distances = [(best[name] - final[name]).norm() / (best[name] - base[name]).norm() for name in decoder]
    assert max(distances) < 0.5, "both are near to the same quantised weights"
