"""The command line as a user types it: every form that scripts for 0.1.0 use, and every mistake at once."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import signal
from pathlib import Path

import pytest

from mdl_toolkit import cli, options, settings
from mdl_toolkit.errors import DataError, SettingsError, Stopped


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("audio,prediction\na.wav,yes\n")
    return path


def train_settings(clips: Path, *words: str) -> settings.TrainSettings:
    flags, config = cli.parse_flags(
        settings.TrainSettings, ["--train-dataset", str(clips), "--output", "out", *words]
    )
    return options.build(settings.TrainSettings, flags, config)


def test_defaults_are_those_of_the_public_tool(clips: Path):
    made = train_settings(clips)
    assert (made.model_name, made.lr, made.lora_rank, made.lora_alpha, made.lora_dropout) == (
        "mispeech/midashenglm-7b", 1e-4, 32, 32, 0.0,
    )  # fmt: skip
    assert made.train_target == ["encoder", "projector", "decoder"]
    assert (made.num_epochs, made.warmup_steps, made.batch_size, made.gradient_accumulation_steps) == (
        1.0,
        0,
        8,
        1,
    )
    assert (made.eval_steps, made.save_steps, made.save_total_limit, made.merge_lora) == (
        500,
        500,
        None,
        True,
    )
    assert (made.bf16, made.quantization, made.gradient_checkpointing, made.report_to) == (
        None,
        None,
        "auto",
        [],
    )
    assert 1 <= made.num_workers <= 32 and made.tokenizing_batch_size == 8


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--merge-lora", "false"], False),
        (["--merge-lora=false"], False),
        (["--no-merge-lora"], False),
        (["--merge-lora"], True),
        (["--merge-lora", "True"], True),
        (["--merge_lora", "0"], False),
    ],
)
def test_booleans_take_words_and_flag_forms(clips: Path, words: list[str], value: bool):
    assert train_settings(clips, *words).merge_lora is value


def test_a_bare_boolean_does_not_swallow_the_argument_after_it(clips: Path):
    flags, _ = cli.parse_flags(settings.ConvertSettings, ["--from-modelscope", str(clips), "--output", "d"])
    made = options.build(settings.ConvertSettings, flags)
    assert made.from_modelscope is True and made.input == clips


@pytest.mark.parametrize("value", ["true", "false", "auto"])
def test_checkpointing_takes_three_words(clips: Path, value: str):
    made = train_settings(clips, "--gradient-checkpointing", value)
    assert made.gradient_checkpointing == {"true": True, "false": False, "auto": "auto"}[value]


@pytest.mark.parametrize(
    "words",
    [
        ["--train-target", "encoder", "--train-target", "lm_head"],
        ["--train-target", "encoder,lm_head"],
        ["--train-target", '["encoder","lm_head"]'],
    ],
)
def test_repeated_options(clips: Path, words: list[str]):
    assert train_settings(clips, *words).train_target == ["encoder", "lm_head"]


def test_resume_takes_true_a_path_or_nothing(clips: Path):
    assert train_settings(clips).resume_from_checkpoint is None
    assert train_settings(clips, "--resume-from-checkpoint", "true").resume_from_checkpoint == "true"
    assert train_settings(clips, "--resume-from-checkpoint").resume_from_checkpoint == "true"
    assert (
        train_settings(clips, "--resume-from-checkpoint", "o/checkpoint-5").resume_from_checkpoint
        == "o/checkpoint-5"
    )


def test_every_problem_is_reported_at_once(clips: Path, capsys: pytest.CaptureFixture[str]):
    words = [
        "--lr",
        "x",
        "--lora-rank",
        "0",
        "--train-target",
        "ears",
        "--save-steps",
        "1.5",
        "--output",
        "o",
    ]
    assert cli.run(["train", *words]) == 2
    said = capsys.readouterr().err
    for piece in ("--lr x", "--lora-rank 0: at least 1", "--train-target", "--train-dataset is missing"):
        assert piece in said
    assert all(line.startswith("error: ") for line in said.splitlines())


def test_an_unknown_option_and_a_near_one(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["train", "--lora-ranks", "3", "--quux", "1"]) == 2
    said = capsys.readouterr().err
    assert "no option --lora-ranks; did you mean --lora-rank?" in said and "no option --quux" in said


def test_an_option_without_its_value(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["train", "--lr", "--output", "o"]) == 2
    assert "--lr needs a value" in capsys.readouterr().err


def test_negative_numbers_are_values(clips: Path):
    with pytest.raises(SettingsError, match="--lr -1: more than 0 expected"):
        train_settings(clips, "--lr", "-1")


def test_missing_files_name_a_near_one(clips: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["convert-dataset", str(clips.with_name("trian.csv")), "--output", "d"]) == 2
    assert f"did you mean {clips}" in capsys.readouterr().err


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
        ("lr: yes", "lr True: a number expected"),
    ],
)
def test_broken_yaml_is_one_clear_line(clips: Path, tmp_path: Path, text: str, message: str):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(SettingsError, match=message):
        train_settings(clips, "--config", str(config))


def test_settings_that_contradict_each_other(clips: Path):
    with pytest.raises(SettingsError) as caught:
        train_settings(clips, "--method", "full", "--dora", "--quantization", "4bit", "--sharding", "full")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("row 3 is bad"), 2),
        (Stopped(signal.SIGTERM, "saved"), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, clips: Path, error: BaseException, code: int):
    import mdl_toolkit.data.convert as convert

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(convert, "convert_dataset", fail)
    assert cli.run(["convert-dataset", str(clips), "--output", "d"]) == code


def test_no_command_and_a_misspelt_one(capsys: pytest.CaptureFixture[str]):
    assert cli.run([]) == 2
    assert "usage: mdl-toolkit COMMAND" in capsys.readouterr().out
    assert cli.run(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_help_names_every_option_with_its_default(capsys: pytest.CaptureFixture[str]):
    for name, command in cli.COMMANDS.items():
        assert cli.run([name, "--help"]) == 0
        text = capsys.readouterr().out
        for f, _ in options.settings_fields(command.settings):
            label = f.metadata["metavar"] if f.metadata["positional"] else options.flag(f.name)
            assert label in text
            assert f.metadata["help"]


def test_settings_know_what_was_given(clips: Path, tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text("lora-rank: 4\n")
    made = train_settings(clips, "--lr", "1e-4", "--config", str(config))
    assert options.given(made) == {"train_dataset", "output", "lr", "lora_rank"}  # the default lr was given
    in_python = settings.TrainSettings(train_dataset="d", output=tmp_path, lr=1e-4)
    assert options.given(in_python) == {"train_dataset", "output", "lr"}


def test_what_was_given_outlives_copies_and_changes(tmp_path: Path):
    made = settings.TrainSettings(train_dataset="d", output=tmp_path, lr=1e-4)
    for same in (dataclasses.replace(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert same == made and options.given(same) == options.given(made)
    assert options.given(dataclasses.replace(made, seed=7)) - options.given(made) == {"seed"}
    made.train_target.append("lm_head")
    made.batch_size = 3
    assert options.given(made) == {"train_dataset", "output", "lr", "train_target", "batch_size"}


def test_a_default_that_is_filled_in_was_not_given(tmp_path: Path):
    made = settings.TrainSettings(train_dataset="d", output=tmp_path, seed=7)
    filled = options.fill(made, lr=3e-3, warmup_steps=20)
    assert (filled.lr, filled.warmup_steps, filled.seed, made.lr) == (3e-3, 20, 7, 1e-4)
    assert options.given(filled) == options.given(made)
    assert options.given(dataclasses.replace(filled, lr=1e-3)) == options.given(made) | {"lr"}
    assert not any(name.startswith("_") for name in options.as_dict(filled))
