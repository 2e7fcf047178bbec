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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from mdl_toolkit.report.assemble import assemble
from mdl_toolkit.report.data import ReportPage, ReportSet
from support.data.clips import tone, wav_bytes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request, ViewportSize

_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: What is opened: a report, the file of a page, or an address.
Where: TypeAlias = "ReportPage | Path | str"
_USUAL_SIZE: ViewportSize = {"width": 1280, "height": 800}
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


def usual_page(browser: Browser) -> Page:
    """A page of the usual size, to be used again and again: a new one takes three times as long."""
    context = browser.new_context(viewport=_USUAL_SIZE, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    return context.new_page()


@dataclass
class Opened:
    """Opens pages and keeps what went wrong in them.

    Attributes:
        usual: The page that is taken where nothing special is asked for.
        folder: Where the pages' files are written.
        problems: Errors and warnings of their consoles, and what their scripts threw.
        requests: What they asked for that isn't in them or beside them.
    """

    usual: Page
    folder: Path
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _last: list[Callable[[], None]] = field(default_factory=list)
    _watches_usual: bool = False

    def write(self, report: ReportPage, name: str = "report.html") -> Path:
        """Write a report's page."""
        path = self.folder / name
        path.write_text(assemble(report), encoding="utf-8")
        return path

    def open(self, report: Where, **options: Any) -> Page:
        """Open a report, or a page that was written, or an address, in a browser that knows nothing yet.

        Args:
            report: What to open. Without options the page that was opened before is gone then.
            options: Those of a browser context: ``viewport``, ``color_scheme``, ….
        """
        if not options:
            if self.usual.url != "about:blank":
                self.usual.evaluate("localStorage.clear()")
            return self._shown(self.usual, report)
        browser = self.usual.context.browser
        assert browser is not None
        context = browser.new_context(reduced_motion="reduce", **{"viewport": _USUAL_SIZE, **options})
        context.set_default_timeout(PATIENCE)
        self._last.append(context.close)
        return self._shown(context.new_page(), report)

    def open_again(self, page: Page, report: Where) -> Page:
        """Open a report in a second page of the same browser, which knows what the first one has kept."""
        again = page.context.new_page()
        self._last.append(again.close)
        return self._shown(again, report)

    def _shown(self, page: Page, report: Where) -> Page:
        if page is not self.usual or not self._watches_usual:
            self._watch(page)
        where = self.write(report) if isinstance(report, ReportPage) else report
        page.goto(where.as_uri() if isinstance(where, Path) else where)
        page.wait_for_selector("body[data-ready]")
        return page

    def _watch(self, page: Page) -> None:
        watched: list[tuple[Any, Callable[[Any], None]]] = [
            ("console", self._note_message),
            ("pageerror", self._note_error),
            ("request", self._note_request),
        ]
        for event, listener in watched:
            page.on(event, listener)
        if page is self.usual:
            self._watches_usual = True
            self._last += [partial(page.remove_listener, event, listener) for event, listener in watched]

    def _note_error(self, error: object) -> None:
        self.problems.append(f"thrown: {error}")

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.requests.append(request.url)

    def close(self) -> None:
        """Close all pages but the usual one."""
        for action in reversed(self._last):
            action()


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
