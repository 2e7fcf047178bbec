"""The command line as a user types it: every form that scripts for 0.1.0 use, and every mistake at once."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import signal
from pathlib import Path

import pytest

from mdl_toolkit import cli, settings
from mdl_toolkit.errors import DataError, SettingsError, Stopped
from mdl_toolkit.settings import options, paths
from mdl_toolkit.settings import other_tools as foreign
from mdl_toolkit.settings.commandline import parse_flags
from mdl_toolkit.terminal.interrupts import FORWARDED, Interrupted


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("audio,prediction\na.wav,yes\n")
    return path


def train_settings(clips: Path, *words: str) -> settings.TrainSettings:
    flags, config = parse_flags(
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
    flags, _ = parse_flags(settings.ConvertSettings, ["--from-modelscope", str(clips), "--output", "d"])
    made = options.build(settings.ConvertSettings, flags)
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
    flags, _ = parse_flags(settings.TrainSettings, [*typed, "--output", "o"])
    assert paths.dataset_paths(options.build(settings.TrainSettings, flags).train_dataset) == places


def test_a_dataset_that_is_given_twice_is_refused(clips: Path):
    with pytest.raises(SettingsError, match=f"--train-dataset {clips}: given twice"):
        train_settings(clips, "--train-dataset", str(clips.parent / "." / clips.name))
    with pytest.raises(SettingsError, match="name a converted folder"):
        options.build(settings.TrainSettings, {"train_dataset": [","], "output": "o"})


def test_datasets_in_yaml(clips: Path, tmp_path: Path):
    other, config = tmp_path / "b", tmp_path / "run.yaml"
    other.mkdir()
    config.write_text(f"train_dataset:\n- {clips}\n- {other}\neval_dataset: {clips},{other}\noutput: o\n")
    made = options.build(settings.TrainSettings, {}, config)
    assert paths.dataset_paths(made.train_dataset) == [clips, other]
    assert paths.dataset_paths(made.eval_dataset) == [clips, other]
    config.write_text(f"train_dataset: {clips}\neval_dataset: null\noutput: o\n")
    assert options.build(settings.TrainSettings, {}, config).eval_dataset is None


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
        parse_flags(cli.COMMANDS[command].settings, words)


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


def test_a_run_is_not_made_in_its_own_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    words = ["train", "--train-dataset", str(tmp_path / "data"), "--output", str(tmp_path / "link")]
    assert cli.run(words) == 2
    assert "that is --train-dataset itself; name another folder" in capsys.readouterr().err
    assert not any((tmp_path / "data").iterdir())


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
        options.build(settings.TrainSettings, flags, config)
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
        parse_flags(cli.COMMANDS[command].settings, [f"--{name}", "x"])
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
    assert set(foreign._OURS) <= ours
    named = " ".join([*foreign._REMARKS.values(), *foreign._TRAINING.values()])
    launchers = {"--nproc-per-node", "--no-python", "--config", "--no"}
    assert set(re.findall(r"--[a-z][a-z0-9-]*", named)) <= {options.flag(name) for name in ours} | launchers


@pytest.mark.parametrize("command", ["train", "inference"])
def test_an_extra_that_is_missing_is_told_with_the_rest(
    command: str, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = {"train": ["--train-dataset", "none"], "inference": ["none.csv", "--model-name", "m"]}[command]
    assert cli.run([command, *words, "--output", "o.csv", "--quantization", "4bit"]) == 2
    said = capsys.readouterr().err
    assert "no file or folder none" in said
    assert "--quantization needs the quantization extra: pip install 'mdl-toolkit[quantization]'" in said


def test_two_lengths_of_one_warm_up(clips: Path, tmp_path: Path):
    with pytest.raises(SettingsError, match=r"--warmup-steps 20 and --warmup-ratio 0\.1: .* keep one"):
        train_settings(clips, "--warmup-steps", "20", "--warmup-ratio", "0.1")
    assert train_settings(clips, "--warmup-steps", "0", "--warmup-ratio", "0.1").warmup_ratio == 0.1
    with pytest.raises(SettingsError, match=r"--warmup-ratio 1\.5: at most 1"):
        train_settings(clips, "--warmup-ratio", "1.5")


def test_options_of_adapters_are_not_dropped_in_full_training(clips: Path):
    words = ["--lora-rank", "16", "--no-dora", "--no-merge-lora"]
    with pytest.raises(SettingsError) as caught:
        train_settings(clips, "--method", "full", *words)
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "--lora-rank",
        "--dora",
        "--merge-lora",
    ]
    assert train_settings(clips, *words).lora_rank == 16
    assert train_settings(clips, "--method", "full", "--merge-lora").method == "full"


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
    import mdl_toolkit.data.conversion.command as convert

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(convert, "convert_dataset", fail)
    assert cli.run(["convert-dataset", str(clips), "--output", "d"]) == code


@pytest.mark.parametrize("step", [False, True])
def test_a_step_of_another_command_leaves_it_to_that_to_say_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, step: bool
):
    import mdl_toolkit.data.conversion.command as convert

    def interrupt(_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(convert, "convert_dataset", interrupt)
    if step:
        monkeypatch.setenv(FORWARDED, "1")
    assert cli.run(["convert-dataset", str(clips), "--output", "d"]) == 143
    said = "" if step else ": no half dataset is left; the same command starts again"
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped by SIGTERM{said}"


def test_no_command_and_a_misspelt_one(capsys: pytest.CaptureFixture[str]):
    assert cli.run([]) == 2
    assert "usage: mdl-toolkit COMMAND" in capsys.readouterr().out
    assert cli.run(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_every_help_ends_with_a_line_that_can_be_typed(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["--help"]) == 0
    overview = capsys.readouterr().out.rpartition("examples:\n")[2].splitlines()
    for (name, command), listed in zip(cli.COMMANDS.items(), overview, strict=True):
        assert cli.run([name, "--help"]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"example: {listed.strip()}"
        program, typed, *words = listed.split()
        flags, _ = parse_flags(command.settings, words)
        assert (program, typed) == ("mdl-toolkit", name)
        required = {
            f.name
            for f, _ in options.settings_fields(command.settings)
            if f.default is f.default_factory is dataclasses.MISSING
        }
        assert required <= flags.keys()


@pytest.mark.parametrize("columns", ["20", "80", "500"])
def test_help_fits_the_terminal_and_cuts_no_option_in_two(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", columns)
    for name in cli.COMMANDS:
        assert cli.run([name, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        body = [line for line in lines if not line.startswith(("usage:", "example:"))]
        assert max(map(len, body)) <= max(60, min(100, int(columns)))
        assert not [line for line in body if line.endswith("-")]


def test_help_says_whose_model_it_is(capsys: pytest.CaptureFixture[str]):
    for name, words in (("convert-dataset", "convert for"), ("train", "fine-tune"), ("inference", "ask")):
        assert cli.run([name, "--help"]) == 0
        assert f"Model to {words}:" in capsys.readouterr().out


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


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_launchers_variable_that_makes_no_sense_is_told_first(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RANK", "abc")
    assert cli.run([command]) == 2
    assert capsys.readouterr().err == (
        "error: environment variable RANK=abc: a whole number expected (launchers set these; left over in "
        "this shell? unset RANK)\n"
    )
    assert cli.run([command, "--help"]) == 0
