"""One browser for the tests of a file; nothing may go wrong in the pages of any of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.report.chromium import Opened, chromium, usual_page

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def usual() -> Iterator[Page]:
    with chromium() as browser:
        yield usual_page(browser)


@pytest.fixture
def pages(usual: Page, tmp_path: Path) -> Iterator[Opened]:
    """Opens pages. At the end none may have complained, or asked the network for anything."""
    opened = Opened(usual, tmp_path)
    try:
        yield opened
        assert not opened.problems
        assert not opened.requests
    finally:
        opened.close()
