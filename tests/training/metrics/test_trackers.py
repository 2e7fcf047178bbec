"""Trackers that fail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mdl_toolkit.terminal.logs import is_main_process
from mdl_toolkit.training.metrics.trackers import Trackers


def test_a_tracker_that_fails_is_left_out_and_training_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    trackers = Trackers([], tmp_path, {}, cpu=True)
    told: list[int] = []

    def fail(values: Any, step: int) -> None:
        raise ConnectionError("no route to host\nand more")

    trackers._trackers = [
        SimpleNamespace(name="far", log=fail, finish=lambda: None),
        SimpleNamespace(name="near", log=lambda values, step: told.append(step), finish=lambda: None),
    ]
    for step in (1, 2, 3):
        trackers.log({"loss": 1.0}, step)
    assert told == [1, 2, 3]
    assert capfd.readouterr().err.count("--report-to far: failed (no route to host)") == 1
    assert is_main_process()
