"""The recipes in ``examples/`` run as they stand, here with a small model and made-up clips."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from support.models.tiny import make_model_folder
from support.processes.launch import ROOT, run
from support.training.shop import metrics, write_clip

pytestmark = pytest.mark.system

ANSWERS = {
    "speech_recognition": ("one two three", "four five", "six", "seven eight nine ten"),
    "classification": ("dog", "cat", "rain", "bell"),
    "captioning": ("a dog barks", "a cat sleeps in rain", "rain on a roof", "a bell rings twice"),
}
#: Folder by default, task and main score of each recipe.
MADE = {
    "speech_recognition": ("speech", "asr", "wer"),
    "classification": ("classes", "classification", "accuracy"),
    "captioning": ("captions", "caption", "cider"),
}
#: So that a model of random numbers is done soon.
SMALL = [
    "--max-steps", "2", "--batch-size", "2", "--num-workers", "1", "--data-workers", "0",
    "--eval-max-new-tokens", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("examples") / "model")


def tables(folder: Path, answers: tuple[str, ...]) -> list[str]:
    """A table each to learn from, to decide by and to test on."""
    (folder / "clips").mkdir(parents=True)
    for part in ("train", "dev", "test"):
        with open(folder / f"{part}.csv", "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["audio", "prediction"])
            for number, answer in enumerate(answers):
                clip = f"clips/{part}-{number}.wav"
                write_clip(folder / clip, 0.3, 200 + 50 * number)
                writer.writerow([clip, answer])
    return ["train.csv", "dev.csv", "test.csv"]


@pytest.mark.parametrize("name", MADE)
def test_a_recipe_leads_from_tables_to_scores_and_a_page(name: str, model: Path, tmp_path: Path) -> None:
    where, task, score = MADE[name]
    given = tables(tmp_path / "my data", ANSWERS[name])
    script = ["env", f"MODEL={model}", "bash", str(ROOT / "examples" / f"{name}.sh")]
    general = [f"GENERAL={given[0]}"] if name == "classification" else []
    folder = [where, *SMALL]
    finished = run([*script[:2], *general, *script[2:], *given, *folder], cwd=tmp_path / "my data")
    assert finished.code == 0, finished.output
    made = tmp_path / "my data" / where
    evaluations = [line for line in metrics(made / "run") if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [0, 1, 2]
    assert all(f"eval_{score}/main" in line for line in evaluations)
    assert all((f"eval_{score}/general" in line) is bool(general) for line in evaluations)
    assert metrics(made / "run")[-1]["best_step"] in (1, 2)
    assert (made / "run" / "best" / "model.safetensors").is_file()
    said = json.loads((made / "run" / "evaluation" / "test" / "scores.json").read_text())
    assert said["task"] == task and said["rows"] == 4 and score in said["scores"]
    page = (made / "report.html").read_text(encoding="utf-8")
    assert '"name":"test"' in page.replace(" ", "") and '"name":"main"' in page.replace(" ", "")


def test_without_tables_a_recipe_says_how_it_is_used(tmp_path: Path) -> None:
    for name in MADE:
        finished = run(["bash", str(ROOT / "examples" / f"{name}.sh")], cwd=tmp_path)
        assert finished.code != 0 and f"usage: examples/{name}.sh TRAIN.csv" in finished.output
        assert os.access(ROOT / "examples" / f"{name}.sh", os.X_OK)
