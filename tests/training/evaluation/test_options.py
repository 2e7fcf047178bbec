"""What is said of the options of evaluations, before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.ready import make_ready
from support.training.runs import environment, run_settings


@pytest.mark.parametrize(
    ("options", "missing", "idle"),
    [
        ({"eval_task": "exact"}, "--eval-generate", ["--eval-task"]),
        ({"eval_max_new_tokens": 9}, "--eval-generate", ["--eval-max-new-tokens"]),
        (
            {"eval_generate": 5, "eval_on_start": True},
            "--eval-dataset",
            ["--eval-generate", "--eval-on-start"],
        ),
    ],
)
def test_what_has_no_effect_is_said(
    shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: dict[str, Any], missing: str,
    idle: list[str],
):  # fmt: skip
    held_out = str(shop.held_out) if missing == "--eval-generate" else None
    make_ready(run_settings(shop.model, shop.data, tmp_path / "out", eval_dataset=held_out, **options))
    told = {line for line in capfd.readouterr().err.splitlines() if "has no effect" in line}
    assert told == {f"warning: {name} has no effect: there is no {missing}" for name in idle}


def test_a_task_without_its_libraries_is_refused_at_once(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a line that says how to install them, before torch is loaded; `exact` needs none."""
    without = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'jiwer' else find(name, *rest)\n"
        "from mdl_toolkit.cli import run\n"
        "code = run(sys.argv[1:])\n"
        "print('torch' in sys.modules)\n"
        "sys.exit(code)\n"
    )
    words = ["train", "--train-dataset", str(shop.data), "--eval-dataset", str(shop.held_out)]
    words += ["--output", str(tmp_path / "out"), "--eval-generate", "4", "--eval-task", "asr"]
    ended = subprocess.run(
        [sys.executable, "-c", without, *words],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert ended.returncode == 2 and ended.stdout.strip() == "False"
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith("error: --eval-task asr: ") and "pip install 'mdl-toolkit[evaluate]'" in line
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    fine = {"eval_dataset": str(shop.held_out), "eval_generate": 4}
    assert not run_settings(shop.model, shop.data, tmp_path / "out", **fine).problems()
    plain: dict[str, Any] = {"train_dataset": str(shop.data), "output": tmp_path / "out", "eval_task": "asr"}
    assert not TrainSettings(**plain).problems(), "no answers, no scores"
