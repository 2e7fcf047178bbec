"""Values that are missing, contradict each other or have no effect: told before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdl_toolkit import cli, settings
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings.checks import dataset_paths, dataset_problems
from mdl_toolkit.settings.values import make_settings
from support.command_lines import train_settings


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


def test_a_dataset_that_is_given_twice_is_refused(clips: Path):
    with pytest.raises(SettingsError, match=f"--train-dataset {clips}: given twice"):
        train_settings(clips, "--train-dataset", str(clips.parent / "." / clips.name))
    with pytest.raises(SettingsError, match="name a converted folder"):
        make_settings(settings.TrainSettings, {"train_dataset": [","], "output": "o"})


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


def test_missing_files_name_a_near_one(clips: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["convert-dataset", str(clips.with_name("trian.csv")), "--output", "d"]) == 2
    assert f"did you mean {clips}" in capsys.readouterr().err


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
    "option", ["--base-dir", "--output", "--generation-config", "--model-name", "--base-model"]
)
def test_a_home_and_a_file_url_are_paths_in_every_option(tmp_path: Path, monkeypatch, option: str):
    """Also behind an equals sign, where a shell leaves them as they are."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a b").mkdir()
    (tmp_path / "in.csv").write_text("audio\na.wav\n")
    given = {"input": "~/in.csv", "output": "~/out.csv", "model_name": "tiny"}
    name = option[2:].replace("-", "_")
    end = ".csv" if option == "--output" else ""
    for text in (f"~/a b{end}", f"file://{tmp_path}/a%20b{end}", f"file://localhost{tmp_path}/a b{end}"):
        made = make_settings(settings.InferenceSettings, {**given, name: text})
        assert str(getattr(made, name)) == f"{tmp_path}/a b{end}"
        assert made.input == tmp_path / "in.csv"
    with pytest.raises(SettingsError, match=f"{option} file://server/a: a file URL of host server"):
        make_settings(settings.InferenceSettings, {**given, name: "file://server/a"})


def test_a_home_and_a_file_url_name_datasets(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b c"):
        (tmp_path / name).mkdir()
    folders = [tmp_path / "a", tmp_path / "b c"]
    assert dataset_paths("~/a,~/b c") == folders == dataset_paths(["~/a", f"FILE://{tmp_path}/b%20c"])
    assert dataset_problems("--train-dataset", ["~/a", "file:///nowhere"], tmp_path / "out") == [
        "--train-dataset: no file or folder /nowhere"
    ]
    told = dataset_problems("--train-dataset", "file://server/a", tmp_path / "out")
    assert len(told) == 1 and "--train-dataset file://server/a: a file URL of host server" in told[0]


@pytest.mark.parametrize(
    ("text", "told"), [(r"data\in.csv", "on this system: data/in.csv"), (r"C:\in.csv", "(drive C:)")]
)
def test_a_table_named_as_on_windows_says_so(tmp_path: Path, monkeypatch, text: str, told: str):
    monkeypatch.chdir(tmp_path)
    given = {"input": text, "output": "o.csv", "model_name": "tiny"}
    with pytest.raises(SettingsError) as caught:
        make_settings(settings.InferenceSettings, given)
    assert told in str(caught.value)
