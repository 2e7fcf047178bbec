"""For tests of settings."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("audio,prediction\na.wav,yes\n")
    return path
