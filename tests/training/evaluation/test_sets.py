"""Several sets of evaluation data, each with its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.training.run import train
from support.training.runs import make_dataset, metrics_of, run_settings


def evaluations(output: Path) -> list[dict[str, Any]]:
    return [line for line in metrics_of(output) if "eval_loss" in line]


def test_each_set_has_its_numbers(shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Those of a set are what it has alone; the first one's are also there under the plain names."""
    other = make_dataset(tmp_path / "other", shop.model, rows=5, seed=9)
    options = {"max_steps": 2, "eval_steps": 1, "data_workers": 1}
    named = [f"old={other}", f"main={shop.held_out}"]
    train(run_settings(shop.model, shop.data, tmp_path / "out", eval_dataset=named, **options))
    alone = {}
    for name, folder in (("main", shop.held_out), ("old", other)):
        train(run_settings(shop.model, shop.data, tmp_path / name, eval_dataset=str(folder), **options))
        alone[name] = evaluations(tmp_path / name)
        assert not any("/" in key for line in alone[name] for key in line)
    together = evaluations(tmp_path / "out")
    assert [line["step"] for line in together] == [1, 2]
    for number, line in enumerate(together):
        for name, rows in (("main", 11), ("old", 5)):
            assert line[f"eval_loss/{name}"] == alone[name][number]["eval_loss"]
            assert line[f"eval_rows/{name}"] == rows
        assert line["eval_loss"] == line["eval_loss/main"] and line["eval_rows"] == 11
    assert "main: loss" in capsys.readouterr().err


def test_another_set_is_warned_of_when_a_run_is_resumed(
    shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = make_dataset(tmp_path / "other", shop.model, rows=5, seed=9)
    sets = [f"main={shop.held_out}", f"old={other}"]
    settings = {"max_steps": 1, "eval_dataset": sets}
    train(run_settings(shop.model, shop.data, tmp_path / "out", **settings))
    again = {**settings, "max_steps": 2, "resume_from_checkpoint": "true"}
    train(run_settings(shop.model, shop.data, tmp_path / "out", **again))
    assert "resuming with another --eval-dataset" not in "".join(capsys.readouterr())
    again |= {"max_steps": 3, "eval_dataset": sets[:1]}
    train(run_settings(shop.model, shop.data, tmp_path / "out", **again))
    assert "resuming with another --eval-dataset" in "".join(capsys.readouterr())
