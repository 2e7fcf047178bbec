"""One browser for the tests of a file; each test has pages of its own, in which nothing may go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.report.chromium import Opened, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def pages(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    """Opens pages. At the end none may have complained, or asked the network for anything."""
    opened = Opened(browser, tmp_path)
    try:
        yield opened
        assert not opened.problems
        assert not opened.requests
    finally:
        opened.close()
