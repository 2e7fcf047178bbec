"""The rows' table of a report's page, in a real browser: sorting, filters, sound, and ten thousand rows."""

from __future__ import annotations

import dataclasses
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.data.clips import tone, wav_bytes
from support.report.chromium import changed_set, until, with_long_clips
from support.report.sample import HTML_TEXT, ODD_TEXTS, sample_page

ROWS = ".grid-body .grid-row"


def column(page, title: str) -> list[str]:
    """The cells of a column in the order in which they are seen."""
    heads = page.locator(".grid-head .cell").all_text_contents()
    place = next(k for k, head in enumerate(heads) if head.strip() == title)
    return [
        text.strip() for text in page.locator(f"{ROWS} > .cell:nth-child({place + 1})").all_text_contents()
    ]


def numbers(texts: list[str]) -> list[float]:
    return [float(re.sub(r"[^\d.e−-]", "", text).replace("−", "-")) for text in texts]


def count_line(page) -> str:
    return page.locator("#rows-count").inner_text()


def test_worst_rows_come_first_and_any_column_sorts_both_ways(pages):
    page = pages.open(sample_page(rows=60, runs=1))
    assert count_line(page) == "60 rows, worst first"
    scores = numbers(column(page, "WER"))
    assert scores == sorted(scores, reverse=True) and scores[0] > 0
    page.get_by_role("columnheader", name="Reference").get_by_role("button").click()
    texts = column(page, "Reference")
    page.get_by_role("columnheader", name="Reference").get_by_role("button").click()
    assert page.get_by_role("columnheader", name="Reference").get_attribute("aria-sort") == "descending"
    assert (
        column(page, "Reference")[0] not in texts[:3]
        and "falling" in page.locator("#announcements").inner_text()
    )
    page.get_by_role("columnheader", name="Row", exact=True).get_by_role("button").click()
    assert numbers(column(page, "Row"))[:5] == [1, 2, 3, 4, 5]
    page.get_by_role("columnheader", name="Sure").get_by_role("button").click()
    sure = numbers(column(page, "Sure"))
    assert sure == sorted(sure)
    page.get_by_role("button", name="Worst first").click()
    assert numbers(column(page, "WER")) == scores


def test_a_hidden_column_can_be_shown_and_sorted_by(pages):
    page = pages.open(sample_page(rows=60, runs=1))
    page.locator(".menu summary").click()
    page.get_by_label("Lowest log-probability").check()
    page.get_by_label("Row", exact=True).uncheck()
    page.keyboard.press("Escape")
    heads = [head.strip() for head in page.locator(".grid-head .cell").all_text_contents()]
    assert "Lowest log-probability" in heads and "Row" not in heads
    page.get_by_role("columnheader", name="Lowest log-probability").get_by_role("button").click()
    values = numbers(column(page, "Lowest log-probability"))
    assert values == sorted(values)


def test_rows_are_filtered_by_text_and_by_result(pages):
    page = pages.open(sample_page(rows=60, runs=1))
    table = sample_page(rows=60, runs=1).runs[0].sets[0].table
    right = sum(bool(row[10]) for row in table.rows)
    status = page.get_by_label("Show", exact=True)
    status.select_option("right")
    assert count_line(page) == f"{right} of 60 rows, worst first"
    assert set(numbers(column(page, "WER"))) == {0}
    status.select_option("wrong")
    assert count_line(page) == f"{60 - right} of 60 rows, worst first"
    status.select_option("unsure")
    assert count_line(page).startswith("15 of 60 rows")
    status.select_option("failed")
    assert count_line(page).startswith("0 of 60 rows")
    assert "No row passes" in page.locator("#detail").inner_text()
    status.select_option("all")
    page.get_by_label("Search").fill("QUICK speaker 3")
    texts = ["\n".join(cell for cell in row if isinstance(cell, str)).lower() for row in table.rows]
    said = [text for text in texts if all(word in text for word in ("quick", "speaker", "3"))]
    until(page, "document.getElementById('rows-count').textContent.includes(' of ')")
    assert count_line(page).startswith(f"{len(said)} of 60 rows")
    page.get_by_role("button", name="Show all rows").click()
    assert count_line(page) == "60 rows, worst first"
    assert page.get_by_label("Search").input_value() == ""


def test_differences_are_marked_by_word_and_by_character(pages):
    report = sample_page(rows=12, runs=1)

    def one(truth: str, answer: str):
        def change(given):
            row = list(given.table.rows[0])
            row[2], row[3], row[9], row[10] = truth, answer, 9.9, False
            return {"table": dataclasses.replace(given.table, rows=[row, *given.table.rows[1:]])}

        return change

    report = changed_set(report, "main", one("He turned, sharply and left.", "he turned and, then left"))
    report = changed_set(report, "zh", one("今天天气很好", "今天汽很好吗"))
    page = pages.open(report)
    first = page.locator(ROWS).first
    assert first.locator("del").all_inner_texts() == ["sharply and"]
    assert first.locator("ins").all_inner_texts() == ["and, then"]
    page.get_by_label("Ignore case and punctuation").uncheck()
    assert first.locator("del").all_inner_texts() == ["He turned, sharply and left."]
    page.get_by_label("Set").select_option("zh")
    assert first.locator("del").all_inner_texts() == ["天", "气"]
    assert first.locator("ins").all_inner_texts() == ["汽", "吗"]


def test_odd_texts_stay_texts(pages):
    page = pages.open(sample_page(rows=20, runs=1))
    page.get_by_role("columnheader", name="Row", exact=True).get_by_role("button").click()
    page.get_by_label("Ignore case and punctuation").uncheck()
    assert page.evaluate("window.hacked") is None
    shown = page.locator(f"{ROWS} .truth p").all_text_contents()
    assert [text.split() for text in shown[: len(ODD_TEXTS)]] == [text.split() for text in ODD_TEXTS]
    assert page.locator("#facts").text_content().count(HTML_TEXT) == 1
    assert page.locator("main img").evaluate_all("all => all.every((one) => one.src.startsWith('data:'))")


def is_paused(page) -> bool:
    return page.evaluate("document.getElementById('player').paused")


def until_played(page, seconds: float) -> None:
    until(page, f"document.getElementById('player').currentTime > {seconds}")


def test_a_clip_is_played_by_button_space_and_picture(pages):
    page = pages.open(with_long_clips(sample_page(rows=6, runs=1)))
    assert page.locator("audio").count() == 1
    first = page.locator(ROWS).first
    first.get_by_role("button", name="Play").click()
    until_played(page, 0.05)
    assert first.locator(".play-button").get_attribute("aria-label").startswith("Pause")
    # Where it is heard is seen in the table and beside it.
    until(page, "document.querySelectorAll('.picture[style*=\"--at\"]').length === 2")
    first.locator(".play-button").click()
    assert is_paused(page)
    page.locator("[role=grid]").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    until(page, "() => !document.getElementById('player').paused")
    second = page.locator(ROWS).nth(1)
    assert second.get_attribute("aria-selected") == "true"
    assert second.locator(".play-button.playing").count() == 1
    page.keyboard.press("Space")
    assert is_paused(page)
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "grid"
    box = page.locator("#detail .picture").bounding_box()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 10)
    until_played(page, 11.9)


@pytest.mark.parametrize("served", [False, True], ids=["file", "http"])
def test_clips_beside_the_page_are_played_and_a_lost_one_is_told_of(served: bool, pages, tmp_path):
    """A page from a file, and one from a server, play what lies beside them; the policy allows it."""
    folder = tmp_path / "report clips"
    folder.mkdir()
    (folder / "00000.wav").write_bytes(wav_bytes(tone(0.5)))
    report = sample_page(rows=5, runs=1, clips=2)
    clips = [
        dataclasses.replace(clip, src=f"report%20clips/0000{k}.wav", picture=None)
        for k, clip in enumerate(report.audio)
    ]
    report = dataclasses.replace(report, audio=clips)
    report = changed_set(report, "main", lambda given: {"audio": [0, 1, None, None, None]})
    path = pages.write(report)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        page = pages.open(f"{address}/{path.name}" if served else path)
        page.get_by_role("columnheader", name="Row", exact=True).get_by_role("button").click()
        page.locator(ROWS).first.get_by_role("button", name="Play").click()
        until_played(page, 0.05)
        assert page.locator(ROWS).nth(2).get_by_role("button").count() == 0
        page.locator(ROWS).nth(1).get_by_role("button", name="Play").click()
        page.wait_for_selector(f"{ROWS} .play-button.failed")
        assert "can't be played" in page.locator("#announcements").inner_text()
    finally:
        server.shutdown()
        server.server_close()
    # That a file isn't there is the one thing that the browser may complain of.
    assert all("ERR_FILE_NOT_FOUND" in one or "404" in one for one in pages.problems) and pages.problems
    assert all(one.startswith(address) for one in pages.requests) and bool(pages.requests) is served
    pages.problems.clear()
    pages.requests.clear()


#: Scrolls through all rows as fast as frames come, and keeps how many elements there were at most.
SCROLL_THROUGH = """async () => {
  const grid = document.querySelector('[role=grid]');
  const most = { rows: 0, elements: 0 };
  for (let k = 0; k <= 60; k += 1) {
    grid.scrollTop = (k / 60) * (grid.scrollHeight - grid.clientHeight);
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    most.rows = Math.max(most.rows, grid.querySelectorAll('.grid-body .grid-row').length);
    most.elements = Math.max(most.elements, grid.querySelectorAll('*').length);
  }
  window.most = most;
}"""

#: Sorts by a text, searches, and says how many milliseconds it took until that was seen.
SORT_AND_SEARCH = """async () => {
  const from = performance.now();
  document.querySelector('.grid-head [data-sort="truth"]').click();
  const search = document.getElementById('search');
  search.value = 'lazy dog';
  search.dispatchEvent(new Event('input'));
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - from;
}"""


def test_ten_thousand_rows_scroll_with_few_elements(pages):
    report = changed_set(
        sample_page(rows=10_000, runs=1, clips=4),
        "main",
        lambda given: {"audio": [k % 5 for k in range(10_000)]},
    )
    page = pages.open(report)
    grid = page.get_by_role("grid")
    assert grid.get_attribute("aria-rowcount") == "10001"
    page.evaluate(SCROLL_THROUGH)
    most = page.evaluate("window.most")
    assert 5 < most["rows"] < 60 and most["elements"] < 3000
    indices = page.locator(ROWS).evaluate_all(
        "rows => rows.map((row) => Number(row.getAttribute('aria-rowindex')))"
    )
    assert indices == list(range(indices[0], 10_002))
    grid.focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    assert grid.get_attribute("aria-activedescendant") == "grid-row-9999"
    page.keyboard.press("PageUp")
    assert page.locator("#grid-row-9999").count() == 1  # still near, and not chosen any more
    chosen = page.locator(f"#{grid.get_attribute('aria-activedescendant')}")
    assert chosen.get_attribute("aria-selected") == "true"
    # Sorting and searching all of them is a matter of a moment; the bound is one of patience.
    spent = page.evaluate(SORT_AND_SEARCH)
    assert spent < 5000
    assert re.match(r"[\d,]+ of 10,000 rows", count_line(page))
