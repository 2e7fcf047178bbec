"""Settings remember which of them were given: by flag, in YAML, in Python."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path

from mdl_toolkit import settings
from mdl_toolkit.settings import options
from support.command_lines import train_settings


def test_settings_know_what_was_given(clips: Path, tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text("lora-rank: 4\n")
    made = train_settings(clips, "--lr", "1e-4", "--config", str(config))
    assert options.given_names(made) == {
        "train_dataset",
        "output",
        "lr",
        "lora_rank",
    }  # the default lr was given
    in_python = settings.TrainSettings(train_dataset="d", output=tmp_path, lr=1e-4)
    assert options.given_names(in_python) == {"train_dataset", "output", "lr"}


def test_what_was_given_outlives_copies_and_changes(tmp_path: Path):
    made = settings.TrainSettings(train_dataset="d", output=tmp_path, lr=1e-4)
    for same in (dataclasses.replace(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert same == made and options.given_names(same) == options.given_names(made)
    assert options.given_names(dataclasses.replace(made, seed=7)) - options.given_names(made) == {"seed"}
    made.train_target.append("lm_head")
    made.batch_size = 3
    assert options.given_names(made) == {"train_dataset", "output", "lr", "train_target", "batch_size"}


def test_a_default_that_is_filled_in_was_not_given(tmp_path: Path):
    made = settings.TrainSettings(train_dataset="d", output=tmp_path, seed=7)
    filled = options.with_defaults(made, lr=3e-3, warmup_steps=20)
    assert (filled.lr, filled.warmup_steps, filled.seed, made.lr) == (3e-3, 20, 7, 1e-4)
    assert options.given_names(filled) == options.given_names(made)
    assert options.given_names(dataclasses.replace(filled, lr=1e-3)) == options.given_names(made) | {"lr"}
    assert not any(name.startswith("_") for name in options.as_dict(filled))
