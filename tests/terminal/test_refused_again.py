"""What torchrun's next attempt repeats of the one before: a refusal, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdl_toolkit.cli import run
from mdl_toolkit.terminal.torchrun import earlier_refusal


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an agent, whose second attempt this process belongs to, as local rank 1."""
    for attempt in (0, 1):
        for rank in (0, 1):
            (tmp_path / f"attempt_{attempt}" / str(rank)).mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_1" / "1" / "error.json"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    return tmp_path


def reported(agent: Path, rank: int, code: int, message: str, at: int, attempt: int = 0) -> None:
    report = {"message": message, "errorCode": code, "extraInfo": {"timestamp": str(at)}}
    path = agent / f"attempt_{attempt}" / str(rank) / "error.json"
    path.write_text(json.dumps({"message": report}))


def test_the_first_failure_counts(agent: Path):
    assert earlier_refusal() is None
    reported(agent, 0, 2, "refused", 10)
    assert earlier_refusal() == "refused"
    reported(agent, 1, 143, "stopped by SIGTERM", 11)
    assert earlier_refusal() == "refused"
    reported(agent, 1, 1, "crashed", 9)
    assert earlier_refusal() is None
    reported(agent, 1, 2, "refused first", 9)
    assert earlier_refusal() == "refused first"


@pytest.mark.parametrize("code", [1, 3, 4, 143])
def test_other_failures_are_not_repeated(agent: Path, code: int):
    reported(agent, 0, code, "failed", 10)
    assert earlier_refusal() is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"message": "text"}', '{"message": {"message": "m", "extraInfo": {"timestamp": "1"}}}'],
)
def test_what_others_have_reported_is_left_alone(agent: Path, content: str):
    (agent / "attempt_0" / "0" / "error.json").write_text(content)
    assert earlier_refusal() is None


def test_a_first_attempt_has_nothing_to_repeat(agent: Path, monkeypatch: pytest.MonkeyPatch):
    reported(agent, 0, 2, "refused", 10, attempt=0)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(agent / "attempt_0" / "1" / "error.json"))
    assert earlier_refusal() is None
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "")
    assert earlier_refusal() is None


def test_a_command_repeats_it_before_anything_else(
    agent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    reported(agent, 0, 2, "--output out has a run in it already\n--lr: a number expected", 10)
    monkeypatch.setenv("LOCAL_RANK", "0")
    lines = ["error: --output out has a run in it already", "error: --lr: a number expected"]
    assert run(["train", "--whatever"]) == 2
    assert capsys.readouterr().err.splitlines() == lines
    report = json.loads((agent / "attempt_1" / "1" / "error.json").read_text())["message"]
    assert report["errorCode"] == 2 and report["message"].startswith("--output out has a run")
    assert run(["train", "--help"]) == 0
