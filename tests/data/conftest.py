"""What several tests of the data share."""

from __future__ import annotations

import pytest

from mdl_toolkit.data.audio import urls


@pytest.fixture
def quick_and_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and no proxy of whoever runs the tests."""
    monkeypatch.setattr(urls, "BACK_OFF", 0.01)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
