"""The last lines of a training say where everything is, and the command that they give works."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit import cli
from mdl_toolkit.report import write
from mdl_toolkit.training.run import train
from support.training.runs import run_settings
from support.training.scripted import Scripted
from support.training.shop import write_table

#: Of two steps the first is the best; the base was worse than both.
LOSSES = {0: 3.0, 1: 1.0, 2: 2.0}
OPTIONS: dict[str, Any] = {
    "max_steps": 2, "eval_steps": 1, "metric_for_best": "loss", "eval_on_start": True, "num_workers": 1,
}  # fmt: skip


def last_lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    lines = capfd.readouterr().err.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("peak memory: ")) + 1 :]


def test_they_say_where_everything_is_and_the_commands_work_when_pasted(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """From the folder in which the training was started, with a name that a shell would cut in two."""
    monkeypatch.chdir(tmp_path)
    output = Path("my run")
    table = write_table(tmp_path / "held out", "dev", 3).relative_to(tmp_path)
    Scripted(LOSSES).installed(monkeypatch)
    settings = run_settings(
        shop.model, shop.data, output, eval_dataset=str(table), base_dir=Path("held out"), **OPTIONS
    )
    train(settings)
    said = last_lines(capfd)
    assert said == [
        "my run/final is ready: the model after step 2",
        "my run/best is the best model: eval_loss 1.0000 at step 1; the base had 3.0000",
        "my run/report.html shows the run: its curves, scores and answers",
        "next: mdl-toolkit inference 'held out/dev.csv' --output 'my run/answers.csv' --model-name "
        "'my run/best' --base-dir 'held out'",
        "then: mdl-toolkit evaluate 'my run/answers.csv' --task exact --output 'my run/evaluation/answers'",
    ]
    for line in said[-2:]:
        words = shlex.split(line.partition(": ")[2])
        assert words[0] == "mdl-toolkit"
        more = ["--max-new-tokens", "2"] if words[1] == "inference" else []
        assert cli.run([*words[1:], *more]) == 0, capfd.readouterr().err
    with open(output / "answers.csv", encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 3
    assert "scores" in json.loads((output / "evaluation" / "answers" / "scores.json").read_text())
    assert 'content="mdl-toolkit report"' in (output / "report.html").read_text(encoding="utf-8")[:500]


def test_without_a_table_the_report_is_next(shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    output = tmp_path / "out"
    train(run_settings(shop.model, shop.data, output, max_steps=1))
    *_, report, own = last_lines(capfd)
    assert report == f"next: mdl-toolkit report {output} --output {output / 'report.html'}"
    assert own.startswith("or, on a table of yours: mdl-toolkit inference INPUT.csv ")
    assert own.endswith(f"--model-name {output / 'final'}")
    assert cli.run(shlex.split(report.partition(": ")[2])[1:]) == 0


def test_a_report_that_fails_fails_nothing(
    shop: Any, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]
):
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by a bug")

    monkeypatch.setattr(write, "write_report", fails)
    train(run_settings(shop.model, shop.data, tmp_path / "out", max_steps=1))
    said = last_lines(capfd)
    assert (
        said[0].startswith("warning: ")
        and "report.html could not be written (ZeroDivisionError: by a" in said[0]
    )
    assert not any("shows the run" in line for line in said)


def test_a_page_of_somebody_else_is_left_alone_and_an_own_one_goes_with_the_run(
    shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    output = tmp_path / "out"
    output.mkdir()
    (output / "report.html").write_text("<html>mine</html>")
    train(run_settings(shop.model, shop.data, output, max_steps=1))
    assert (output / "report.html").read_text() == "<html>mine</html>"
    assert "is not a report on a run, and stays as it is" in capfd.readouterr().err
    (output / "report.html").unlink()
    train(run_settings(shop.model, shop.data, output, max_steps=1, resume_from_checkpoint="true"))
    assert (output / "report.html").is_file()
    beside = output / "report-audio"
    beside.mkdir()
    (beside / "0123456789abcdef0123.wav").touch()
    (beside / "notes.txt").write_text("mine")
    shutil.rmtree(output / "final")
    from mdl_toolkit.training.checkpoints.output import clear_run

    clear_run(output)
    assert sorted(path.name for path in output.iterdir()) == [".mdl_run.json", "report-audio"]
    assert [path.name for path in beside.iterdir()] == ["notes.txt"]
