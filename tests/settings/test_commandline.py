"""A command line as a user types it: every form that scripts for 0.1.0 use, and every mistake at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mdl_toolkit import cli, settings
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings import checks, options, suggestions
from mdl_toolkit.settings.commandline import parse_flags
from mdl_toolkit.settings.values import make_settings
from support.command_lines import flags_of, train_settings


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
    flags, _ = flags_of(settings.ConvertSettings, ["--from-modelscope", str(clips), "--output", "d"])
    made = make_settings(settings.ConvertSettings, flags)
    assert made.from_modelscope is True and made.input == clips


@pytest.mark.parametrize("value", ["true", "false", "auto"])
def test_checkpointing_takes_three_words(clips: Path, value: str):
    made = train_settings(clips, "--gradient-checkpointing", value)
    assert made.gradient_checkpointing == {"true": True, "false": False, "auto": "auto"}[value]


@pytest.mark.parametrize(
    "words",
    [
        ["--train-dataset", "{0}", "--train-dataset", "{1}"],
        ["--train-dataset", "{0},{1}"],
        ["--train-dataset={0}, {1}"],
        ["--train-dataset", '["{0}","{1}"]'],
    ],
)
def test_several_datasets_are_all_there(tmp_path: Path, words: list[str]):
    places = [tmp_path / "a.csv", tmp_path / "b"]
    places[0].write_text("audio,prediction\n")
    places[1].mkdir()
    typed = [word.replace("{0}", str(places[0])).replace("{1}", str(places[1])) for word in words]
    flags, _ = flags_of(settings.TrainSettings, [*typed, "--output", "o"])
    assert checks.dataset_paths(make_settings(settings.TrainSettings, flags).train_dataset) == places


@pytest.mark.parametrize(
    ("words", "both"),
    [
        (["--lr", "1e-4", "--lr=2e-4"], "--lr 1e-4 and --lr 2e-4"),
        (["--merge-lora", "--no-merge-lora"], "--merge-lora and --no-merge-lora"),
        (["--config", "a.yaml", "--config", "b.yaml"], "--config a.yaml and --config b.yaml"),
        (["--output", "other"], "--output out and --output other"),
        (["--lora-rank", "4", "--lora_rank", "x"], "--lora-rank 4 and --lora_rank x"),
    ],
)
def test_two_values_where_one_is_taken_are_both_named(clips: Path, words: list[str], both: str):
    with pytest.raises(SettingsError, match=f"two values where one is taken: {both}; keep one"):
        train_settings(clips, *words)


def test_the_same_value_twice_is_one_value(clips: Path):
    made = train_settings(clips, "--lr", "1e-4", "--lr", "0.0001", "--merge-lora", "--merge-lora", "true")
    assert made.lr == 1e-4 and made.merge_lora is True


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("convert-dataset", ["a.csv", "b.csv"], "unexpected 'b.csv': INPUT is a.csv"),
        (
            "convert-dataset",
            ["--input", "a.csv", "b.csv"],
            "two values where one is taken: --input a.csv and b",
        ),
        (
            "train",
            ["--train-target", "encoder", "decoder"],
            "unexpected 'decoder': a further value needs its option again, --train-target",
        ),
        ("train", ["data.csv"], "unexpected 'data.csv': data to train on are given as --train-dataset"),
        ("train", ["-o", "out"], "^unexpected '-o': options begin with two dashes$"),
    ],
)
def test_words_that_have_no_place(command: str, words: list[str], message: str):
    with pytest.raises(SettingsError, match=message):
        flags_of(cli.COMMANDS[command].settings, words)


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


def test_an_unknown_option_and_a_near_one(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["train", "--lora-ranks", "3", "--quux", "1"]) == 2
    said = capsys.readouterr().err
    assert "no option --lora-ranks; did you mean --lora-rank?" in said and "no option --quux" in said


def test_an_option_without_its_value(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["train", "--lr", "--train-dataset", "--output", "o"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --lr needs a value", "error: --train-dataset needs a value"
    ]  # fmt: skip


def test_negative_numbers_are_values(clips: Path):
    with pytest.raises(SettingsError, match="--lr -1: more than 0 expected"):
        train_settings(clips, "--lr", "-1")


def test_what_is_wrong_with_words_and_with_values_is_told_together(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "run.yaml"
    config.write_text("user_prompt: no\n")
    words = ["--dataset", str(clips), "--lr", "x", "--lora-rank", "0", "--quux", "--config", str(config)]
    assert cli.run(["train", *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.partition("error: ")[2].split(":")[0] for line in said] == [
        "no option --dataset", "no option --quux", f"{config} line 1", "--lr x", "--lora-rank 0",
        "--output is missing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name", "answer"),
    [
        ("train", "learning-rate", "here it is --lr"),
        ("train", "per_device_train_batch_size", "here it is --batch-size"),
        ("train", "num-train-epochs", "here it is --num-epochs"),
        ("train", "dataset", "here it is --train-dataset"),
        ("train", "output-dir", "here it is --output"),
        ("train", "model", "here it is --model-name"),
        ("train", "model-name-or-path", "here it is --model-name"),
        ("train", "lora-r", "here it is --lora-rank"),
        ("train", "load-in-4bit", "here it is --quantization"),
        ("train", "fp16", "float16 is not offered; here it is --bf16"),
        ("train", "max-seq-length", "clips and answers are never cut"),
        ("train", "deepspeed", "launch with accelerate"),
        ("train", "input", "here it is --train-dataset"),
        ("inference", "dataset", "here it is INPUT"),
        ("inference", "output_file", "here it is --output"),
        ("inference", "beam-size", "here it is --num-beams"),
        ("inference", "lr", "it is an option of train"),
        ("convert-dataset", "data", "here it is INPUT"),
        ("convert-dataset", "max_new_tokens", "it is an option of inference"),
        ("demo", "output-dir", "here it is --output"),
    ],
)
def test_options_of_other_tools_lead_to_ours(command: str, name: str, answer: str):
    with pytest.raises(SettingsError) as caught:
        flags_of(cli.COMMANDS[command].settings, [f"--{name}", "x"])
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"no option --{name}: {answer}")


def test_options_of_other_tools_in_yaml(clips: Path, tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text("learning_rate: 1e-4\n\ndeepspeed: ds.json\n")
    with pytest.raises(SettingsError) as caught:
        train_settings(clips, "--config", str(config))
    assert caught.value.problems[0] == f"{config} line 1: no setting 'learning_rate': here it is lr"
    assert caught.value.problems[1].startswith(
        f"{config} line 3: no setting 'deepspeed': launch with accelerate"
    )


def test_the_table_of_other_names_leads_to_options_that_exist():
    ours = {f.name for c in cli.COMMANDS.values() for f, _ in options.settings_fields(c.settings)}
    assert set(suggestions._OURS) <= ours
    named = " ".join([*suggestions._REMARKS.values(), *suggestions._TRAINING.values()])
    launchers = {"--nproc-per-node", "--no-python", "--config", "--no"}
    assert set(re.findall(r"--[a-z][a-z0-9-]*", named)) <= {options.flag(name) for name in ours} | launchers


def test_an_option_may_have_a_letter():
    problems: list[str] = []
    flags, _ = parse_flags(settings.VerifySettings, ["m", "-n", "5", "--data", "t.csv"], problems)
    assert flags["rows"] == "5" and not problems
    parse_flags(settings.VerifySettings, ["m", "-m", "5"], problems)
    assert problems == ["unexpected '-m': options begin with two dashes"]
