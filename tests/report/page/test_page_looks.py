"""How a report's page looks: light, dark, on a phone, on paper; how it reads aloud; and what it may do."""

from __future__ import annotations

import socket
from itertools import pairwise

import pytest

from support.report.sample import sample_page

PHONE = {"width": 360, "height": 740}
#: Pairs of a colour of text and what is behind it.
PAIRS = (
    ("ink", "paper"), ("ink", "card"), ("ink", "accent-fill"), ("soft", "paper"), ("soft", "card"),
    ("soft", "sunk"), ("accent", "card"), ("accent-ink", "accent"), ("good", "good-fill"),
    ("bad", "bad-fill"), ("mind", "mind-fill"),
)  # fmt: skip
#: What a person acts on or reads as one thing and has no name, ids that are there twice, and names of none.
UNNAMED = """() => {
  const found = [];
  const named = (one) => (one.getAttribute('aria-label') || one.textContent || one.title || '').trim()
    || [...(one.labels ?? [])].some((label) => label.textContent.trim())
    || document.getElementById(one.getAttribute('aria-labelledby'))?.textContent.trim();
  const things = 'button, summary, a, select, input, textarea, progress, [role]';
  for (const one of document.querySelectorAll(things)) {
    if (['rowgroup', 'row', 'gridcell', 'status', 'alert'].includes(one.getAttribute('role'))) continue;
    if (!named(one)) found.push(one.outerHTML.slice(0, 120));
  }
  for (const one of document.querySelectorAll('img:not([alt])')) found.push(one.outerHTML.slice(0, 120));
  const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
  found.push(...ids.filter((id, place) => ids.indexOf(id) !== place));
  for (const one of document.querySelectorAll('[aria-describedby], [aria-labelledby], [for]')) {
    const given = ['aria-describedby', 'aria-labelledby', 'for'].map((name) => one.getAttribute(name) ?? '');
    for (const id of given.join(' ').split(' ').filter(Boolean)) {
      if (!document.getElementById(id)) found.push(`no element ${id}`);
    }
  }
  return found;
}"""
#: Roles and names that a screen reader has to find.
PARTS = (
    "- main:", '- navigation "Sections":', '- heading "Scores" [level=2]', '- table "Scores on main":',
    '- table "Paired differences on main":', '- grid "Rows":', "- columnheader", "- searchbox",
    '- complementary "The chosen row":', '- button "Correct answers"', '- link "Skip to the report":',
)  # fmt: skip
#: The element that has the focus, and whether that is seen.
FOCUSED = """() => {
  const one = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  return [one.id || one.className || one.tagName, outlineStyle !== 'none' && parseFloat(outlineWidth) > 0];
}"""
#: Whether anything sticks out of the page to the right, and what.
TOO_WIDE = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  const scrolled = (one) => one.parentElement?.closest('.scroll, .grid, .matrix-holder, nav');
  const out = [...document.querySelectorAll('body *')]
    .filter((one) => one.getBoundingClientRect().right > wide + 1 && !scrolled(one));
  return out.map((one) => one.outerHTML.slice(0, 90)).slice(0, 5).concat('too wide');
}"""


def colour(page, name: str) -> tuple[float, ...]:
    code = """(name) => {
      const probe = document.body.appendChild(document.createElement('i'));
      probe.style.setProperty('color', `var(--${name})`);
      const text = getComputedStyle(probe).color;
      probe.remove();
      return text.match(/[\\d.]+/g).slice(0, 3).map(Number);
    }"""
    return tuple(page.evaluate(code, name))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """As the Web Content Accessibility Guidelines have it."""

    def luminance(rgb: tuple[float, ...]) -> float:
        parts = [v / 255 for v in rgb]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return sum(share * v for share, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(scheme, pages):
    page = pages.open(sample_page(rows=10, runs=2), color_scheme=scheme)
    faint = {pair: contrast(*(colour(page, name) for name in pair)) for pair in PAIRS}
    assert {pair: ratio for pair, ratio in faint.items() if ratio < 4.5} == {}
    for run in range(8):
        assert contrast(colour(page, f"run-{run}"), colour(page, "card")) >= 3
    assert sum(colour(page, "paper")) < 200 if scheme == "dark" else sum(colour(page, "paper")) > 700


def test_the_switch_of_colours_is_kept(pages):
    report = sample_page(rows=10, runs=1)
    page = pages.open(report, color_scheme="light")
    light = colour(page, "paper")
    page.get_by_label("Colours").select_option("Dark")
    assert sum(colour(page, "paper")) < 200
    again = pages.open_again(page, report)
    assert sum(colour(again, "paper")) < 200 and again.get_by_label("Colours").input_value() == "dark"
    again.get_by_label("Colours").select_option("As the system")
    assert colour(again, "paper") == light


def test_on_a_phone_nothing_sticks_out_and_a_row_opens(pages):
    page = pages.open(sample_page(rows=30, runs=2), viewport=PHONE, has_touch=True, is_mobile=True)
    assert page.evaluate(TOO_WIDE) == []
    row = page.locator(".grid-body .grid-row").first
    box = row.bounding_box()
    for cell in ("clip", "truth", "answer", "score"):
        inside = row.locator(f".cell.{cell}").first.bounding_box()
        assert inside["y"] >= box["y"] and inside["y"] + inside["height"] <= box["y"] + box["height"]
    assert not page.locator("#detail").is_visible()
    row.locator(".truth").tap()
    assert page.locator("#detail").is_visible()
    page.locator("#detail").get_by_role("button", name="Close").tap()
    assert not page.locator("#detail").is_visible()
    page.get_by_label("Sort").select_option("Row, rising")
    assert row.locator(".truth").inner_text().startswith("Reference") or row.locator(".truth").is_visible()
    page.get_by_label("Set").select_option("sounds")
    assert page.evaluate(TOO_WIDE) == []
    page.locator("#correct-rows").tap()
    assert page.evaluate(TOO_WIDE) == []


def test_everything_has_a_name_and_a_place(pages):
    page = pages.open(sample_page(rows=30, runs=2))
    assert page.evaluate(UNNAMED) == []
    tree = page.locator("body").aria_snapshot()
    for part in PARTS:
        assert part in tree, part
    levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    grid = page.get_by_role("grid")
    assert (grid.get_attribute("aria-rowcount"), grid.get_attribute("aria-colcount")) == ("31", "8")
    row = page.locator(".grid-body .grid-row").first
    assert row.get_attribute("aria-rowindex") == "2" and row.get_by_role("gridcell").count() == 8
    assert page.locator(f"#{grid.get_attribute('aria-activedescendant')}").count() == 1
    assert page.locator("#rows-count").get_attribute("role") == "status"
    page.get_by_label("Set").select_option("sounds")
    assert page.evaluate(UNNAMED) == []
    page.locator("#correct-rows").click()
    assert page.evaluate(UNNAMED) == []


def test_the_keyboard_goes_everywhere_and_is_seen(pages):
    page = pages.open(sample_page(rows=10, runs=2))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "report"
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        name, is_seen = page.evaluate(FOCUSED)
        if name == "BODY":
            break
        assert is_seen, f"the focus on {name} isn't seen"
        reached.add(name)
    assert {"score-table", "comparison-table", "chart-plot", "search", "grid", "correct-rows"} <= reached


def test_on_paper_the_first_rows_are_a_table(pages):
    page = pages.open(sample_page(rows=130, runs=1), color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    printed = page.locator("#printed-rows")
    assert "The first 100 rows of 130." in printed.inner_text()
    assert printed.locator("tbody tr").count() == 100
    assert not page.get_by_role("grid").is_visible() and not page.locator(".bar").is_visible()
    assert colour(page, "paper") == (255, 255, 255) and colour(page, "ink") == (0, 0, 0)


def test_the_page_may_ask_nobody_for_anything(pages):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        page = pages.open(sample_page(rows=10, runs=1))
        assert page.evaluate(f"fetch('{address}').then(() => 'sent', () => 'refused')") == "refused"
        page.evaluate(
            """(address) => {
              const picture = document.body.appendChild(new Image());
              picture.src = `${address}a.png`;
              const script = document.body.appendChild(document.createElement('script'));
              script.textContent = 'window.hacked = true';
              document.body.setAttribute('onclick', 'window.hacked = true');
              document.body.click();
            }""",
            address,
        )
        server.settimeout(0.3)
        with pytest.raises(TimeoutError):
            server.accept()
    assert page.evaluate("window.hacked") is None
    # The request, the picture, the script and the handler.
    assert len(pages.problems) >= 4
    assert all("Content Security Policy" in one for one in pages.problems)
    pages.problems.clear()
    pages.requests.clear()
