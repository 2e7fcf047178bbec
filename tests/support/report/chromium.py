"""A real browser without a window, and pages in it that are watched: what they print, throw and ask for."""

from __future__ import annotations

import base64
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from mdl_toolkit.report.assemble import assemble
from mdl_toolkit.report.data import ReportPage, ReportSet
from support.data.clips import tone, wav_bytes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: What is opened: a report, the file of a page, or an address.
Where: TypeAlias = "ReportPage | Path | str"
#: Milliseconds that anything in a page may take. Far more than it does: other tests may have the processor.
PATIENCE = 20_000


def chromium_path() -> str:
    """The browser of this machine; a test that needs it is skipped where there is none."""
    pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[test]'")
    given = os.environ.get("MDL_CHROMIUM")
    found = given or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: install it, or say where it is in MDL_CHROMIUM")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the pages' sound plays without a click before it."""
    path = chromium_path()
    from playwright.sync_api import sync_playwright

    # A browser of root's has no sandbox.
    arguments = [
        "--autoplay-policy=no-user-gesture-required",
        *(["--no-sandbox"] if not os.geteuid() else []),
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """Opens pages and keeps what went wrong in them.

    Attributes:
        browser: In which they are opened.
        folder: Where their files are written.
        problems: Errors and warnings of their consoles, and what their scripts threw.
        requests: What they asked for that isn't in them or beside them.
    """

    browser: Browser
    folder: Path
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    def write(self, report: ReportPage, name: str = "report.html") -> Path:
        """Write a report's page."""
        path = self.folder / name
        path.write_text(assemble(report), encoding="utf-8")
        return path

    def open(
        self, report: ReportPage | Path | str, width: int = 1280, height: int = 800, **options: Any
    ) -> Page:
        """Open a report, or a page that was written, or an address, in a browser that knows nothing yet."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            accept_downloads=True,
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(PATIENCE)
        self._contexts.append(context)
        return self.open_again(context, report)

    def open_again(self, context: BrowserContext, report: Where) -> Page:
        """Open a report in a browser that knows what it kept of earlier pages."""
        page = context.new_page()
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.problems.append(f"thrown: {error}"))
        page.on("request", self._note_request)
        where = self.write(report) if isinstance(report, ReportPage) else report
        page.goto(where.as_uri() if isinstance(where, Path) else where)
        page.wait_for_selector("body[data-ready]")
        return page

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.requests.append(request.url)

    def close(self) -> None:
        """Close all pages."""
        for context in self._contexts:
            context.close()


def until(page: Page, expression: str) -> None:
    """Wait until an expression is true in a page. The page's policy lets no script do so within it."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(20)


def changed_set(
    report: ReportPage, name: str, change: Callable[[ReportSet], dict[str, Any]], run: int = 0
) -> ReportPage:
    """A report of which one set has other fields."""
    runs = list(report.runs)
    sets = [dataclasses.replace(one, **change(one)) if one.name == name else one for one in runs[run].sets]
    runs[run] = dataclasses.replace(runs[run], sets=sets)
    return dataclasses.replace(report, runs=runs)


def with_long_clips(report: ReportPage) -> ReportPage:
    """A report whose clips play for 20 seconds: long enough to be caught playing on a busy machine."""
    samples = tone(20.0, rate=4000, hertz=300.0)
    address = f"data:audio/wav;base64,{base64.b64encode(wav_bytes(samples, rate=4000)).decode('ascii')}"
    clips = [
        dataclasses.replace(clip, src=f"{address}#{number}", seconds=20.0) if clip.src else clip
        for number, clip in enumerate(report.audio)
    ]
    return dataclasses.replace(report, audio=clips)
