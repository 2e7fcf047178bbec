"""What converted folders decide for a training: their model, and options that come too late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.dataset.converted import reconcile_with_folders
from mdl_toolkit.data.dataset.manifest import DatasetManifest, ModelRecord
from mdl_toolkit.errors import DataError, SettingsError
from mdl_toolkit.settings import ConvertSettings, TrainSettings
from mdl_toolkit.settings.options import given_names
from support.models.tiny import make_model_folder
from support.training.runs import make_dataset


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def folder(tmp_path: Path, model: Path):
    def make(name: str, record: dict[str, Any] | None = None, **options: Any) -> Path:
        path = make_dataset(tmp_path / name, model, rows=2)
        manifest = json.loads((path / "mdl_dataset.json").read_text())
        manifest |= {"model": record, "options": options}
        (path / "mdl_dataset.json").write_text(json.dumps(manifest))
        return path

    return make


def settings(*folders: Path, **changes: Any) -> TrainSettings:
    return TrainSettings(train_dataset=[str(path) for path in folders], output=Path("run"), **changes)


def problem(made: TrainSettings) -> str:
    with pytest.raises(SettingsError) as caught:
        reconcile_with_folders(made)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


HUB = {"name": "some/model", "revision": "a" * 40, "from_modelscope": False}


def test_the_model_of_the_folder_is_taken_and_said(folder, capsys: pytest.CaptureFixture[str]):
    data = folder("data", HUB)
    made = reconcile_with_folders(settings(data))
    assert (made.model_name, made.revision) == ("some/model", "a" * 40)
    assert "model_name" not in given_names(made)
    said = capsys.readouterr().err
    assert f"model: some/model at revision {'a' * 40}, for which {data} was converted" in said
    assert reconcile_with_folders(settings(data, revision="v2")).revision == "v2"


def test_a_model_that_is_given_counts(folder, capsys: pytest.CaptureFixture[str]):
    assert reconcile_with_folders(
        settings(folder("data", HUB), model_name="mispeech/midashenglm-7b")
    ).model_name == ("mispeech/midashenglm-7b")
    assert capsys.readouterr().err == ""


def test_folders_of_several_models_are_an_error_that_names_both(folder):
    one, other = folder("one", HUB), folder("other", {**HUB, "revision": "b" * 40})
    said = problem(settings(one, other))
    assert str(one) in said and str(other) in said and "a" * 40 in said and "b" * 40 in said
    assert "--model-name" in said
    made = settings(one, eval_dataset=str(folder("held-out", {"name": "tiny"})))
    assert "tiny" in problem(made)
    assert reconcile_with_folders(settings(one, other, model_name="some/model")).model_name == "some/model"


def test_a_folder_that_recorded_no_model_leaves_the_others_word(folder):
    assert (
        reconcile_with_folders(settings(folder("old"), folder("new", {"name": "tiny"}))).model_name == "tiny"
    )
    assert reconcile_with_folders(settings(folder("older"))).model_name == "mispeech/midashenglm-7b"


def test_a_model_that_was_moved_is_told(folder, tmp_path: Path):
    said = problem(settings(folder("data", {"name": str(tmp_path / "gone")})))
    assert f"{tmp_path / 'gone'}, which is not there any more" in said and "--model-name" in said


@pytest.mark.parametrize("record", [{"name": 3}, {"revision": "x"}, {"name": "m", "revision": 1}, [1]])
def test_a_damaged_record_is_told(folder, record):
    with pytest.raises(DataError, match="damaged"):
        reconcile_with_folders(settings(folder("data", record)))


@pytest.mark.parametrize(
    ("name", "had", "wanted", "said"),
    [
        ("user_prompt", "Q", "Z", "--user-prompt Z has no effect: {} was converted with --user-prompt Q;"),
        ("system_prompt", None, "Z", "--system-prompt Z has no effect: {} was converted without it;"),
        ("prompt_order", "audio-first", "text-first", "was converted with --prompt-order audio-first"),
        ("max_audio_seconds", 300.0, 30.0, "--max-audio-seconds 30.0 has no effect"),
        ("base_dir", None, Path("clips"), "--base-dir clips has no effect"),
        ("base_dir", "recordings", Path("clips"), "was converted with --base-dir recordings"),
        ("encoding", "utf-8", "gbk", "--encoding gbk has no effect"),
        ("on_error", "fail", "skip", "--on-error skip has no effect"),
        ("audio_storage", "pcm16", "flac", "--audio-storage flac has no effect"),
        ("allow_private_urls", False, True, "--allow-private-urls true has no effect"),
        ("url_timeout", 30.0, 3.0, "--url-timeout 3.0 has no effect"),
    ],
)
def test_an_option_that_comes_too_late_is_refused(folder, name: str, had: Any, wanted: Any, said: str):
    data = folder("data", **{name: had})
    text = problem(settings(data, **{name: wanted}))
    assert said.format(data) in text and "convert it again with the option, or leave it out here" in text
    if had is not None:
        reconcile_with_folders(settings(data, **{name: Path(had) if name == "base_dir" else had}))
    reconcile_with_folders(settings(data))


def test_what_was_not_recorded_is_refused_when_given(folder):
    assert "was converted with what was given then" in problem(settings(folder("data"), user_prompt="Z"))


def test_a_file_beside_a_folder_takes_the_options(folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, table = folder("data", user_prompt="Q", base_dir=None), tmp_path / "test.csv"
    table.write_text("audio,prediction\n")
    made = settings(data, eval_dataset=str(table), user_prompt="Z", base_dir=Path("clips"))
    assert reconcile_with_folders(made) == made
    said = capsys.readouterr().err
    assert f"--user-prompt Z is for the files alone: {data} was converted with --user-prompt Q" in said
    assert "--base-dir" not in said


def test_a_conversion_records_its_model_and_every_option_that_it_decides(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    from support.training.shop import write_table

    table = write_table(tmp_path, "train", 2)
    given_options: dict[str, Any] = {"user_prompt": "Q", "max_audio_seconds": 20.0, "url_timeout": 5.0}
    relative = Path("../") / tmp_path.name / "link"
    (tmp_path / "link").symlink_to(model)
    for name, expected in (("tiny", ModelRecord("tiny")), (str(relative), ModelRecord(str(model.resolve())))):
        output = tmp_path / f"converted-{len(name)}"
        convert_dataset(
            ConvertSettings(input=table, output=output, model_name=name, num_workers=1, **given_options)
        )
        assert DatasetManifest.read(output).model == expected
        made = reconcile_with_folders(settings(output, **given_options))
        assert made.model_name == expected.name
        for option in ("system_prompt", "url_max_mib", "allow_outside_base_dir", "audio_storage", "on_error"):
            reconcile_with_folders(settings(output, **{option: getattr(made, option)}))
