"""Options left open are filled in from the launcher's config, once the base has decided on the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.distributed.launch import Launch, read_launch
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.launcher import choose_sharding, fit_to_launcher
from mdl_toolkit.training.ready import make_ready


def options(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"train_dataset": "data", "output": Path("run"), **changes})


def fitted(settings: TrainSettings, launch: Launch) -> TrainSettings:
    return choose_sharding(fit_to_launcher(settings, launch), launch)


def test_nothing_asked_is_no_sharding() -> None:
    assert fitted(options(), Launch(world_size=2)).sharding == "none"


def test_the_users_word_counts() -> None:
    launch = Launch(world_size=2, sharding="full", bf16=True)
    settings = fitted(options(sharding="none", bf16=False), launch)
    assert settings.sharding == "none" and settings.bf16 is False


def test_the_config_fills_what_is_open() -> None:
    given = options()
    settings = fitted(given, Launch(world_size=2, sharding="full", bf16=True, checkpointing=True))
    assert (settings.sharding, settings.bf16, settings.gradient_checkpointing) == ("full", True, True)
    assert given.sharding == "auto" and given.bf16 is None


def test_sharding_the_optimizer_means_something_for_whole_models_only() -> None:
    launch = Launch(world_size=2, sharding="optimizer")
    assert fitted(options(), launch).sharding == "none"
    assert fitted(options(method="full"), launch).sharding == "optimizer"


def test_quantised_weights_are_not_sharded() -> None:
    with pytest.raises(SettingsError, match=r"--quantization does not go with .*MULTI_GPU"):
        fitted(options(quantization="4bit"), Launch(world_size=2, sharding="full"))


def test_one_process_shares_with_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert fitted(options(sharding="full"), Launch()).sharding == "none"
    assert "--sharding full needs several processes" in capsys.readouterr().err


def test_contradictions_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    launch = Launch(accumulation=4, clipping=0.5, bf16=True, remarks=("something is not offered",))
    fitted(options(bf16=False, gradient_accumulation_steps=2), launch)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("warning: accelerate config: ") for line in lines)
    assert "gradient_accumulation_steps is 4, but --gradient-accumulation-steps 2 counts" in lines[2]


def test_agreement_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(options(gradient_accumulation_steps=4), Launch(accumulation=4, clipping=1.0))
    assert not capsys.readouterr().err


def test_sharding_is_chosen_for_the_method_that_suits_the_base(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small base is trained in full: there the config's sharding of the optimizer means something."""
    environment = {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    }  # fmt: skip
    monkeypatch.setattr("mdl_toolkit.training.ready.read_launch", lambda: read_launch(environment))
    given = TrainSettings(
        train_dataset=str(shop.data), output=tmp_path / "out", model_name=str(shop.model), data_workers=0
    )
    settings = make_ready(given).settings
    assert (settings.method, settings.sharding) == ("full", "optimizer")
