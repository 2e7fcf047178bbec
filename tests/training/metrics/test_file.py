"""The file of a run's metrics, also after a run that was killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mdl_toolkit.errors import MdlError
from mdl_toolkit.training.metrics.file import MetricsLog
from support.training.runs import metrics_of


def test_metrics_keep_whole_lines_up_to_a_step(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": float("nan") if step == 2 else 0.5, "rows": "ünï"})
    log.write({"train_runtime": 1.0})
    log.close()
    assert [line.get("step") for line in metrics_of(tmp_path)] == [1, 2, 3, None]
    assert metrics_of(tmp_path)[1]["loss"] is None
    with open(path, "a") as stream:
        stream.write('{"step": 4, "lo')
    again = MetricsLog(path, keep_steps=2)
    assert [line["step"] for line in again.kept] == [1, 2]
    again.write({"step": 3})
    again.close()
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 2, 3]
    MetricsLog(path).close()
    assert path.read_text() == ""


def test_a_full_disk_under_the_metrics_is_told(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log._stream = SimpleNamespace(write=_full)  # type: ignore[assignment]
    with pytest.raises(MdlError, match=r"metrics\.jsonl can't be written: No space left on device"):
        log.write({"step": 1})


def _full(text: str) -> None:
    raise OSError(28, "No space left on device")
