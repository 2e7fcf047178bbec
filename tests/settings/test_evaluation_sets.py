"""``--eval-dataset NAME=PATH``: what is a name, what is a path, and what is wrong with either."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.evaluation_sets import evaluation_paths, evaluation_problems, evaluation_sets
from mdl_toolkit.settings.values import make_settings


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "c,d.csv", "x=1.csv", "old=a.csv"):
        (tmp_path / name).write_text("audio,prediction\n")
    return tmp_path


def sets(*texts: str) -> dict[str, list[str]]:
    return {each.name: list(map(str, each.paths)) for each in evaluation_sets(list(texts))}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a.csv"], {"main": ["a.csv"]}),
        (["a.csv", "b.csv"], {"main": ["a.csv", "b.csv"]}),
        (["a.csv,b.csv"], {"main": ["a.csv", "b.csv"]}),
        (["dev=a.csv", "test=b.csv"], {"dev": ["a.csv"], "test": ["b.csv"]}),
        (["new=a.csv", "b.csv"], {"main": ["b.csv"], "new": ["a.csv"]}),
        (["new=a.csv", "main=b.csv"], {"main": ["b.csv"], "new": ["a.csv"]}),
        (["new=a.csv", "new=b.csv"], {"new": ["a.csv", "b.csv"]}),
        (["new=a.csv,b.csv"], {"new": ["a.csv", "b.csv"]}),
        (["new=a.csv,dev=b.csv"], {"new": ["a.csv"], "dev": ["b.csv"]}),
        (["a.csv,dev=b.csv"], {"main": ["a.csv"], "dev": ["b.csv"]}),
        (["new=c,d.csv"], {"new": ["c,d.csv"]}),
        (["x=1.csv"], {"main": ["x=1.csv"]}),
        (["old=a.csv"], {"main": ["old=a.csv"]}),
        (["new=old=a.csv"], {"new": ["old=a.csv"]}),
        (["in/x=2.csv"], {"main": ["in/x=2.csv"]}),
        ([], {}),
    ],
)
def test_names_and_paths(texts: list[str], expected: dict[str, list[str]]):
    assert sets(*texts) == expected
    assert list(map(str, evaluation_paths(texts))) == [path for paths in expected.values() for path in paths]


def test_a_set_is_named_if_somebody_named_it():
    assert [each.named for each in evaluation_sets(["a.csv"])] == [False]
    assert [(each.name, each.named) for each in evaluation_sets(["a.csv", "main=b.csv"])] == [("main", True)]
    assert [each.named for each in evaluation_sets("dev=~/a.csv")] == [True]
    assert evaluation_paths("dev=~/a.csv") == [Path("~/a.csv").expanduser()]
    assert evaluation_paths("dev=file:///a%20b.csv") == [Path("/a b.csv")]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["two words=a.csv"], "--eval-dataset two words=a.csv: a set's name has letters"),
        (["=a.csv"], "--eval-dataset =a.csv: a set's name has letters"),
        ([".hidden=a.csv"], "a set's name has letters"),
        (["ü=a.csv"], "a set's name has letters"),
        ([f"{'n' * 65}=a.csv"], "a set's name has letters"),
        (["dev="], "--eval-dataset dev=: the path is missing"),
        (["dev=missing.csv"], "--eval-dataset: no file or folder missing.csv"),
        (["here/x=2.csv"], "--eval-dataset: no file or folder here/x=2.csv"),
        (["dev=a.csv", "dev=./a.csv"], "--eval-dataset a.csv: given twice; keep one"),
        (["dev=a.csv", "Dev=b.csv"], "--eval-dataset: the sets dev and Dev differ in case alone"),
    ],
)
def test_what_is_wrong_is_one_line(texts: list[str], told: str, files: Path):
    found = evaluation_problems(texts, files / "out")
    assert len(found) == 1 and told in found[0] and "\n" not in found[0]
    flags = {"train_dataset": ["a.csv"], "output": "out", "eval_dataset": texts}
    with pytest.raises(SettingsError) as caught:
        make_settings(TrainSettings, flags)
    assert caught.value.problems == found


def test_one_file_may_belong_to_two_sets(files: Path):
    assert not evaluation_problems(["all=a.csv", "all=b.csv", "hard=a.csv"], files / "out")


def test_sets_in_yaml(files: Path):
    config = files / "run.yaml"
    config.write_text("train_dataset: a.csv\noutput: o\neval_dataset:\n- main=a.csv\n- old=b.csv\n")
    made = make_settings(TrainSettings, {}, config)
    assert [each.name for each in evaluation_sets(made.eval_dataset)] == ["main", "old"]
