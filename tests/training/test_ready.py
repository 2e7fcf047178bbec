"""What is wrong with a training is told before torch is imported, all of it at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mdl_toolkit.errors import MdlError, SettingsError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.checkpoints.record import RunRecord
from mdl_toolkit.training.metrics.trackers import PACKAGES, check_trackers
from mdl_toolkit.training.ready import Inputs, make_ready
from mdl_toolkit.training.run import train
from support.training.runs import environment, make_dataset, run_settings

_RUN = """
import sys
from mdl_toolkit.cli import run
code = run(sys.argv[1:])
print(code, *(name for name in ("torch", "transformers", "accelerate") if name in sys.modules))
"""


def told(*words: object) -> list[str]:
    """The lines that a wrong command prints, which must end with 2 and without anything heavy."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, words)], capture_output=True, text=True, env=environment()
    )
    assert done.stdout == "2\n", done.stderr
    return done.stderr.splitlines()


@pytest.fixture
def words(shop, tmp_path: Path) -> list[object]:
    return ["train", "--model-name", shop.model, "--train-dataset", shop.data, "--output", tmp_path / "run"]


def test_an_existing_run(words, tmp_path: Path):
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    assert "has a run in it already" in told(*words)[0]


def test_a_checkpoint_that_is_not_there(words, tmp_path: Path):
    said = told(*words, "--resume-from-checkpoint", tmp_path / "run" / "checkpoint-9")
    assert said == [f"error: --resume-from-checkpoint {tmp_path / 'run' / 'checkpoint-9'}: no such folder"]


def test_a_model_that_is_not_there(shop, tmp_path: Path):
    said = told("train", "--model-name", "some/model", "--train-dataset", shop.data, "--output", tmp_path)
    assert "some/model: no local folder of this name" in said[0] and "--model-name tiny" in said[0]


def test_a_folder_that_is_no_dataset(shop, tmp_path: Path):
    said = told("train", "--model-name", shop.model, "--train-dataset", tmp_path, "--output", tmp_path / "r")
    assert "not a converted dataset" in said[0]


@pytest.mark.parametrize(
    ("found", "other", "said"),
    [
        ('"processing_fingerprint": "', '"processing_fingerprint": "0', "converted for another tokenizer"),
        ('"format": 1', '"format": 7', "dataset format 7"),
        ('"rows": 2', '"rows": 3', "damaged, 2 rows where its manifest has 3"),
    ],
)
def test_a_dataset_that_does_not_go_with_the_model(shop, tmp_path: Path, found: str, other: str, said: str):
    manifest = make_dataset(tmp_path / "data", shop.model, rows=2) / "mdl_dataset.json"
    assert found in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(found, other))
    words = ["--train-dataset", manifest.parent, "--output", tmp_path / "run"]
    assert said in told("train", "--model-name", shop.model, *words)[0]


def test_inference_too(shop, tmp_path: Path):
    (tmp_path / "in.csv").write_text("sound\na.wav\n")
    said = told(
        "inference", tmp_path / "in.csv", "--model-name", "some/model", "--output", tmp_path / "o.csv"
    )
    assert "'audio'" in said[0] and "some/model: no local folder of this name" in said[1]


def test_everything_wrong_is_told_at_once(shop, words, tmp_path: Path):
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    said = told(*words, "--report-to", "wandbb", "--user-prompt", "Z", "--base-dir", tmp_path)
    assert [line.split()[1] for line in said] == ["--output", "--report-to", "--user-prompt", "--base-dir"]


def test_another_process_takes_its_error_along(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The main process ends at once; of the others the run hears when they have joined."""
    settings = run_settings(shop.model, tmp_path / "none", tmp_path / "run")
    (tmp_path / "none").mkdir()
    with pytest.raises(SettingsError, match="not a converted dataset"):
        make_ready(settings)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    late = make_ready(settings).inputs
    assert isinstance(late, MdlError) and "not a converted dataset" in str(late)


@pytest.mark.parametrize(
    ("nodes", "job", "told"),
    [
        (1, None, True),  # no record
        (2, None, True),
        (1, "of another launch", True),
        (2, "of another launch", True),
        (1, "job", True),  # this host's agent would be in the record
        (2, "job", False),  # the other host's agent may be in the record
    ],
)
def test_the_main_process_looks_at_the_output_first(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, job: str | None, told: bool
):
    """Where only all hosts together know whether the run there is their own, it is looked at later."""
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    if job is not None:
        record = RunRecord(run="r", launch=frozenset({"b:/tmp/agent"}), job=job, began_from=None)
        record.write(tmp_path / "run")
    settings = run_settings(shop.model, shop.data, tmp_path / "run")
    for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 2 // nodes)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "agent" / "attempt_0" / "0" / "error.json"))
    if told:
        with pytest.raises(SettingsError, match="has a run in it already"):
            make_ready(settings)
    else:
        assert isinstance(make_ready(settings).inputs, Inputs)
    monkeypatch.setenv("RANK", "1")
    assert isinstance(make_ready(settings).inputs, Inputs)


def test_the_model_that_the_data_were_converted_for_is_trained(shop, tmp_path: Path):
    data = make_dataset(tmp_path / "data", shop.model, rows=2)
    manifest = json.loads((data / "mdl_dataset.json").read_text())
    (data / "mdl_dataset.json").write_text(json.dumps({**manifest, "model": {"name": str(shop.model)}}))
    ready = make_ready(TrainSettings(train_dataset=str(data), output=tmp_path / "run"))
    assert isinstance(ready.inputs, Inputs) and ready.inputs.model_folder == shop.model
    assert ready.settings.model_name == str(shop.model)


def test_a_run_that_is_gone_on_with_keeps_its_model(shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(run_settings(shop.model, shop.data, tmp_path / "run", max_steps=1))
    again = TrainSettings(
        train_dataset=str(shop.data), output=tmp_path / "run", resume_from_checkpoint="true", bf16=False
    )
    assert make_ready(again).settings.model_name == str(shop.model)
    assert f"model: {shop.model}, as in {tmp_path / 'run' / 'checkpoint-1'}" in capsys.readouterr().err
    again.resume_from_checkpoint = str(tmp_path / "run" / "checkpoint-1")
    assert make_ready(again).settings.model_name == str(shop.model)
    again.model_name = "tiny"
    assert make_ready(again).settings.model_name == "tiny"


def test_evaluating_on_nothing_is_warned_of(shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = run_settings(shop.model, shop.data, tmp_path / "run", eval_steps=0.5)
    make_ready(settings)
    assert "warning: --eval-steps has no effect: there is no --eval-dataset" in capsys.readouterr().err
    settings.eval_dataset = str(shop.held_out)
    make_ready(settings)
    assert "--eval-steps" not in capsys.readouterr().err


def test_a_damaged_folder_is_told_once(shop, tmp_path: Path):
    manifest = make_dataset(tmp_path / "data", shop.model, rows=2) / "mdl_dataset.json"
    manifest.write_text("{")
    words = ["--train-dataset", manifest.parent, "--output", tmp_path / "run"]
    assert len(told("train", "--model-name", shop.model, *words)) == 1


def test_the_trackers_are_those_of_accelerate():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    assert set(PACKAGES) == {str(name) for name in LOGGER_TYPE_TO_CLASS}
    installed = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    assert set(check_trackers(["all"])) == installed
