"""Training defaults that depend on the size of the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.hub import resolve_model
from mdl_toolkit.settings import TRAIN_TARGETS, TrainSettings
from mdl_toolkit.settings.options import given_names
from mdl_toolkit.training.defaults import SMALL, fit_to_base


def settings(**values: Any) -> TrainSettings:
    return TrainSettings(train_dataset="data", output=Path("run"), **values)


def base_of(folder: Path, weights: int) -> Path:
    """A folder whose weights are one tensor of zeros, which take no space on the disk."""
    header = json.dumps(
        {"w": {"dtype": "F8_E4M3", "shape": [weights], "data_offsets": [0, weights]}}
    ).encode()
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + weights)
    return folder


def test_a_small_base_is_trained_whole(capsys: pytest.CaptureFixture[str]) -> None:
    fitted = fit_to_base(settings(), resolve_model("tiny"))
    assert fitted.method == "full" and fitted.train_target == list(TRAIN_TARGETS)
    assert fitted.lr == 1e-3 and fitted.num_epochs == 12 and fitted.warmup_ratio == 0.1
    assert not given_names(fitted) & {"method", "lr"}, (
        "a default that suits the base is none that somebody gave"
    )
    said = capsys.readouterr().err
    assert "a small base (3.8 million weights)" in said
    assert "--method full" in said and "--lr 0.001" in said and "--num-epochs 12" in said


def test_what_was_given_stays(capsys: pytest.CaptureFixture[str]) -> None:
    chosen: dict[str, Any] = {
        "method": "lora", "lr": 1e-4, "num_epochs": 1.0, "train_target": ["decoder"], "warmup_ratio": 0.0,
    }  # fmt: skip
    assert fit_to_base(settings(**chosen), resolve_model("tiny")) == settings(**chosen)
    assert not capsys.readouterr().err, "nothing is left to say"


@pytest.mark.parametrize(
    ("name", "value"), [("lora_rank", 32), ("merge_lora", False), ("quantization", "8bit")]
)
def test_an_option_of_adapters_means_adapters(
    name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = fit_to_base(settings(**{name: value}), resolve_model("tiny"))
    assert "--method" not in capsys.readouterr().err, "it is what it would have been"
    assert fitted.method == "lora" and fitted.lr == 3e-3 and getattr(fitted, name) == value
    assert not fitted.problems() or "no file or folder" in fitted.problems()[0]


def test_one_length_and_one_warm_up() -> None:
    fitted = fit_to_base(settings(max_steps=50, warmup_steps=5), resolve_model("tiny"))
    assert fitted.max_steps == 50 and fitted.num_epochs == 1.0
    assert fitted.warmup_steps == 5 and not fitted.warmup_ratio


def test_others_keep_those_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_to_base(settings(), base_of(tmp_path / "large", SMALL)) == settings()
    assert not capsys.readouterr().err
    assert fit_to_base(settings(), base_of(tmp_path / "small", SMALL - 1)).method == "full"
