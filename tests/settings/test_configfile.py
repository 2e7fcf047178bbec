"""Settings in a YAML file: what was written counts, not what YAML makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdl_toolkit import settings
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings import checks
from mdl_toolkit.settings.values import make_settings
from support.command_lines import train_settings


def test_datasets_in_yaml(clips: Path, tmp_path: Path):
    other, config = tmp_path / "b", tmp_path / "run.yaml"
    other.mkdir()
    config.write_text(f"train_dataset:\n- {clips}\n- {other}\neval_dataset: {clips},{other}\noutput: o\n")
    made = make_settings(settings.TrainSettings, {}, config)
    assert checks.dataset_paths(made.train_dataset) == [clips, other]
    assert checks.dataset_paths(made.eval_dataset) == [clips, other]
    config.write_text(f"train_dataset: {clips}\neval_dataset: null\noutput: o\n")
    assert make_settings(settings.TrainSettings, {}, config).eval_dataset is None


def test_yaml_and_flags(clips: Path, tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({"lr": "3e-4", "lora-rank": 4, "train_target": "decoder", "bf16": True}))
    made = train_settings(clips, "--config", str(config), "--lora-rank", "8")
    assert (made.lr, made.lora_rank, made.train_target, made.bf16) == (3e-4, 8, ["decoder"], True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora_rnk: 3", "no setting 'lora_rnk'; did you mean lora_rank"),
        ("- a", "a mapping"),
        ("a: [", "not YAML"),
        ("lr: yes", "line 1: lr yes: a number expected"),
    ],
)
def test_broken_yaml_is_one_clear_line(clips: Path, tmp_path: Path, text: str, message: str):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(SettingsError, match=message):
        train_settings(clips, "--config", str(config))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("user_prompt: no", 'user_prompt no: YAML reads it as true or false; put it in quotes: "no"'),
        ("user-prompt: On", 'user-prompt On: YAML reads it as true or false; put it in quotes: "On"'),
        ("system_prompt: 007", 'system_prompt 007: YAML reads it as a number; put it in quotes: "007"'),
        ("system_prompt: 1:30", 'YAML reads it as a number; put it in quotes: "1:30"'),
        ("output: 2026-01-31", 'YAML reads it as a date; put it in quotes: "2026-01-31"'),
        ("base_dir: ~", 'YAML reads it as nothing; put it in quotes: "~"'),
        ("user_prompt: &R what", "YAML reads it as an anchor and its value; put it in quotes"),
        ("user_prompt: !loud what", "a value of type !loud; put it in quotes"),
        ("user_prompt: ['a', 'b']", "user_prompt: one value expected, not a list; put it in quotes"),
        ("user_prompt: {a: b}", "one value expected, not a mapping; put it in quotes"),
        ("user_prompt: what: this", "not YAML .*has to be in quotes"),
        ("report_to: [wandb, off]", 'report_to: YAML reads it as true or false; put it in quotes: "off"'),
        ("output:", "output: there is no value; leave the line out"),
        ("lr: 1:30", "lr 1:30: a number expected"),
        ("lr: [1, 2]", "lr: one value expected, not a list$"),
        ("lora_rank: 010", "lora_rank 010: YAML reads a number that begins with 0 as octal"),
        ("seed: 1\nlora-rank: 4\nlora_rank: 8", "line 3: lora_rank is there twice, first in .* line 2"),
        ("? [a]\n: b", "line 1: the name of a setting expected"),
    ],
)
def test_what_yaml_would_make_something_else_of_is_refused(
    clips: Path, tmp_path: Path, line: str, message: str
):
    config = tmp_path / "run.yaml"
    config.write_text(f"{line}\n")
    flags = {"train_dataset": [str(clips)], **({} if line.startswith("output") else {"output": "o"})}
    with pytest.raises(SettingsError, match=message) as caught:
        make_settings(settings.TrainSettings, flags, config)
    assert str(config) in caught.value.problems[0] and " line " in caught.value.problems[0]


def test_yaml_values_are_what_was_written(clips: Path, tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "lr: 1e-4\nseed: 0\nnum_epochs: 1.5\nmax_steps: 1_000\nmerge_lora: off\nbf16: ~\ncompile: 'yes'\n"
        "user_prompt: 'no'\nsystem_prompt: |-\n  two\n  lines\nencoding: !!str 437\nrevision: null\n"
        "quantization: 4bit\nresume_from_checkpoint: true\ntrain_target: encoder, projector\n"
        "weight_decay: 0\nbatch_size: '4'\ngradient_checkpointing: auto\nreport_to: []\n"
    )
    made = train_settings(clips, "--config", str(config))
    assert (made.lr, made.seed, made.num_epochs, made.max_steps, made.batch_size) == (1e-4, 0, 1.5, 1000, 4)
    assert (made.merge_lora, made.bf16, made.compile) == (False, None, True)
    assert (made.user_prompt, made.system_prompt, made.encoding) == ("no", "two\nlines", "437")
    assert (made.revision, made.quantization, made.resume_from_checkpoint) == (None, "4bit", "true")
    assert (made.train_target, made.report_to) == (["encoder", "projector"], [])
    config.write_text("user_prompt: 'none'\n")
    assert train_settings(clips, "--config", str(config)).user_prompt == "none"


def test_a_flag_wins_over_a_wrong_value_in_yaml(clips: Path, tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text("user_prompt: no\n")
    assert train_settings(clips, "--config", str(config), "--user-prompt", "no").user_prompt == "no"
