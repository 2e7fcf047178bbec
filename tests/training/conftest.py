"""One tiny model and its datasets for all tests of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from support.models.tiny import make_model_folder
from support.training.runs import make_dataset


@dataclass(frozen=True)
class Shop:
    """What a run needs."""

    model: Path
    data: Path
    held_out: Path


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root = tmp_path_factory.mktemp("shop")
    model = make_model_folder(root / "model")
    return Shop(
        model, make_dataset(root / "data", model), make_dataset(root / "held-out", model, rows=11, seed=3)
    )


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
