from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_eval() -> Path:
    """Real outputs with their published scores, which lie beside the repository where it is developed."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "eval"
    if not folder.is_dir():
        pytest.skip("there are no published outputs beside the repository")
    return folder
