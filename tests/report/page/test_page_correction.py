"""The correction mode of a report's page: by keyboard alone, kept, undone, and saved as a CSV that trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.input.records import read_layout, read_records
from support.data.clips import convert_settings, tone, write_wav
from support.report.chromium import changed_set, until, with_long_clips
from support.report.sample import LABELS, ODD_TEXTS, sample_page

FIELD = "#answer-field"


def start(page, name: str | None = None) -> None:
    """Begin to correct a set by its button."""
    if name:
        page.get_by_label("Set").select_option(name)
    page.locator("#correct-rows").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "answer-field"


def said(page) -> str:
    """The clip that is corrected, its row in the file."""
    return page.locator(".row-facts").inner_text()


def row_of(page) -> int:
    return int(said(page).split("row ")[1].split(" ")[0].replace(",", ""))


def count(page) -> str:
    return page.locator(".count").inner_text()


def save(page, folder: Path, name: str = "corrected.csv") -> Path:
    """Save with the keyboard; where the file is."""
    with page.expect_download() as download:
        page.keyboard.press("Control+s")
    path = folder / name
    download.value.save_as(path)
    assert download.value.suggested_filename.endswith("-corrected.csv")
    return path


def test_answers_are_corrected_and_saved_by_keyboard_alone(pages, tmp_path):
    report = sample_page(rows=20, runs=1)
    page = pages.open(report)
    table = report.runs[0].sets[0].table
    start(page)
    order = sorted(range(20), key=lambda row: table.rows[row][6])  # by mean_logprob: least sure first
    assert row_of(page) == order[0] + 1 and count(page) == "0 of 20 done · 0 changed"
    # Accepted as it is; changed; the model's answer taken; left out; skipped.
    page.keyboard.press("Enter")
    assert row_of(page) == order[1] + 1 and count(page).startswith("1 of 20 done · 0 changed")
    page.keyboard.press("Control+a")
    page.keyboard.type('what "I" heard, at last')
    page.keyboard.press("Enter")
    row = order[2]
    page.keyboard.press("Alt+2")
    taken = page.locator(FIELD).input_value()
    assert taken == (table.rows[row][3] if table.rows[row][3] != table.rows[row][2] else table.rows[row][2])
    page.keyboard.press("Enter")
    page.keyboard.press("Alt+x")
    assert row_of(page) == order[4] + 1
    page.keyboard.press("Alt+ArrowDown")
    assert row_of(page) == order[5] + 1
    page.keyboard.press("Alt+ArrowUp")
    assert row_of(page) == order[4] + 1
    assert "4 of 20 done" in count(page) and "1 left out" in count(page)
    path = save(page, tmp_path)
    found = list(read_records(path))
    truth = {f"clips/main-{k:05d}.wav": table.rows[k][2] for k in range(20)}
    assert [record.audio for record in found] == [f"clips/main-{k:05d}.wav" for k in sorted(order[:3])]
    by_audio = {record.audio: record.prediction for record in found}
    assert by_audio[f"clips/main-{order[0]:05d}.wav"] == truth[f"clips/main-{order[0]:05d}.wav"]
    assert by_audio[f"clips/main-{order[1]:05d}.wav"] == 'what "I" heard, at last'
    assert by_audio[f"clips/main-{order[2]:05d}.wav"] == taken
    assert read_layout(path).columns == ("audio", "prediction", "speaker")
    assert {record.extra["speaker"] for record in found} == {f"speaker {k % 5}" for k in order[:3]}
    assert "3 rows" in page.locator(".saving").inner_text()


def test_undo_goes_back_and_what_was_done_is_kept(pages):
    page = pages.open(sample_page(rows=12, runs=1))
    start(page)
    first = row_of(page)
    before = page.locator(FIELD).input_value()
    page.keyboard.type(" more")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert count(page).startswith("2 of 12 done · 1 changed")
    page.keyboard.press("Alt+z")
    page.keyboard.press("Alt+z")
    assert row_of(page) == first and page.locator(FIELD).input_value() == before
    assert count(page).startswith("0 of 12 done")
    page.keyboard.type(" more")
    page.keyboard.press("Enter")
    # A page that is opened again, and one that was made anew of the same rows, know it.
    again = pages.open_again(page, sample_page(rows=12, runs=1))
    start(again)
    assert count(again).startswith("1 of 12 done · 1 changed") and row_of(again) != first
    again.keyboard.press("Alt+ArrowUp")
    assert again.locator(FIELD).input_value() == f"{before} more"
    again.on("dialog", lambda dialog: dialog.accept())
    again.get_by_role("button", name="Forget all corrections").click()
    assert count(again).startswith("0 of 12 done")
    third = pages.open_again(page, sample_page(rows=12, runs=1))
    start(third)
    assert count(third).startswith("0 of 12 done")


def test_corrections_belong_to_the_rows_whichever_run_answered_them(pages):
    report = sample_page(rows=12, runs=2)

    def turned(given):
        table = dataclasses.replace(given.table, rows=list(reversed(given.table.rows)))
        return {"table": table, "keys": list(reversed(given.keys)), "audio": [None] * 12}

    page = pages.open(changed_set(report, "main", turned, run=1))
    start(page)
    row = row_of(page)
    page.keyboard.type(" and more")
    text = page.locator(FIELD).input_value()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.get_by_label("Run", exact=True).select_option("output-rank-64")
    start(page)
    assert count(page).startswith("1 of 12 done · 1 changed")
    page.get_by_label("Order").select_option("As in the file")
    page.locator(FIELD).focus()
    for key in ("Alt+ArrowUp", "Alt+ArrowDown"):
        for _ in range(12):
            if row_of(page) != row:
                page.keyboard.press(key)
    assert page.locator(FIELD).input_value() == text
    page.keyboard.press("Alt+z")
    assert count(page).startswith("0 of 12 done") and row_of(page) == row


def test_an_empty_answer_is_refused_and_escape_leaves(pages):
    page = pages.open(sample_page(rows=12, runs=1))
    start(page)
    page.keyboard.press("Control+a")
    page.keyboard.type("  ")
    page.keyboard.press("Enter")
    assert "can't be learned" in page.get_by_role("alert").inner_text()
    assert count(page).startswith("0 of 12 done")
    page.keyboard.press("Control+s")
    assert "Nothing to save yet" in page.locator(".saving").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#correction").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#rows").is_visible() and not page.locator("#correction").is_visible()
    assert page.evaluate("document.activeElement.id") == "correct-rows"


def test_every_text_comes_back_as_it_was_with_all_rows(pages, tmp_path):
    """The untouched rows are kept by choice: with their truth, and it is read as it stood in the table."""
    page = pages.open(sample_page(rows=12, runs=1))
    start(page)
    page.get_by_label("All 12 rows, the others with their reference").check()
    found = list(read_records(save(page, tmp_path)))
    assert [record.prediction for record in found[: len(ODD_TEXTS)]] == list(ODD_TEXTS)
    assert "Saved 12 rows" in page.locator(".saving").inner_text()
    # Without a truth it is the model's answer; rows that have none are left out, and counted.
    report = changed_set(sample_page(rows=12, runs=1), "main", _without_truth)
    page = pages.open(report)
    start(page)
    page.get_by_label("All 12 rows, the others with the model's answer").check()
    found = list(read_records(save(page, tmp_path, "answers.csv")))
    assert len(found) == 11 and found[0].prediction == ODD_TEXTS[1]
    assert "1 row without an answer is not in it" in page.locator(".saving").inner_text()
    assert read_layout(tmp_path / "answers.csv").columns == ("audio", "speaker", "user, prompt", "prediction")


def _without_truth(given):
    """The set without references: its first row failed; a column's name and cells need quotes."""
    columns = ["audio", "speaker", "user, prompt", "prediction", "error", "mean_logprob"]
    rows = [
        [row[0], row[1], " null", row[2] if k else None, None if k else "no such file", row[6]]
        for k, row in enumerate(given.table.rows)
    ]
    table = dataclasses.replace(given.table, columns=columns, rows=rows)
    return {"table": table, "reference": None, "input_columns": columns[:4]}


def test_labels_have_keys_of_their_own(pages):
    page = pages.open(sample_page(rows=20, runs=1))
    start(page, "sounds")
    shown = page.locator(".suggestions .label button > span").all_inner_texts()
    assert shown == list(LABELS)
    page.keyboard.press("Alt+4")
    assert page.locator(FIELD).input_value() == LABELS[3]
    assert page.get_by_role("button", name=LABELS[3]).get_attribute("aria-pressed") == "true"
    # More labels than keys: what was answered comes before the rest.
    many = [*LABELS, *(f"label {k}" for k in range(8))]
    confusion = {"labels": many, "counts": [[0] * len(many) for _ in many]}
    page = pages.open(
        changed_set(sample_page(rows=20, runs=1), "sounds", lambda given: {"confusion": confusion})
    )
    start(page, "sounds")
    truth = page.locator(FIELD).input_value()
    shown = page.locator(".suggestions button > span").all_inner_texts()
    assert shown[0] == truth and set(many) <= set(shown) and len(set(shown)) == len(shown)


def test_the_clip_is_heard_and_stopped_by_keys(pages):
    report = changed_set(sample_page(rows=12, runs=1), "main", lambda given: {"audio": [3] * 12})
    page = pages.open(with_long_clips(report))
    start(page)
    playing = "!document.getElementById('player').paused"
    until(page, f"{playing} && document.getElementById('player').currentTime > 0.05")
    page.keyboard.press("Alt+k")
    assert not page.evaluate(playing)
    page.keyboard.press("Alt+j")
    assert page.evaluate("document.getElementById('player').currentTime") == 0
    page.keyboard.press("Escape")
    page.keyboard.press("Space")
    until(page, playing)
    page.get_by_label("Play each clip by itself").uncheck()
    page.locator(FIELD).focus()
    page.keyboard.press("Enter")
    assert not page.evaluate(playing)


def test_rows_of_the_filter_alone_are_corrected_and_begin_with_the_answer(pages):
    report = sample_page(rows=40, runs=1)
    page = pages.open(report)
    page.get_by_role("button", name="speaker 2", exact=True).click()
    start(page)
    assert "the 8 rows of the filter" in page.locator("#correction h2").inner_text()
    assert "of 8 done" in count(page)
    page.get_by_label("Begin with").select_option("answer")
    row = report.runs[0].sets[0].table.rows[row_of(page) - 1]
    assert page.locator(FIELD).input_value() == row[3]
    page.get_by_label("Order").select_option("As in the file")
    page.keyboard.press("Alt+ArrowUp")
    for _ in range(8):
        page.locator(FIELD).press("Enter")
    assert count(page).startswith("8 of 8 done")
    assert page.evaluate("document.activeElement.id") == "save"


@pytest.mark.parametrize("method", ["done", "all"])
def test_the_saved_file_converts(method: str, pages, tmp_path):
    """What is downloaded is what ``train`` converts, with nothing in between."""
    report = sample_page(rows=10, runs=1)
    for k in range(10):
        write_wav(tmp_path / "clips" / f"main-{k:05d}.wav", tone(0.3))
    page = pages.open(report)
    start(page)
    if method == "all":
        page.get_by_label("All 10 rows").check()
        page.locator(FIELD).focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("null")
    page.keyboard.press("Enter")
    path = save(page, tmp_path)
    dataset = convert_dataset(convert_settings(path, tmp_path / "out", base_dir=tmp_path))
    records = list(read_records(path))
    assert len(dataset) == len(records) == (1 if method == "done" else 10)
    assert "null" in [record.prediction for record in records]
