"""Head, scores, charts and confusions of a report's page, of one run and of two, in a real browser."""

from __future__ import annotations

import dataclasses
import re

from support.report.chromium import changed_set, until
from support.report.sample import LABELS, sample_page


def table_rows(page, holder: str) -> list[str]:
    rows = page.locator(f"{holder} tbody tr").all_inner_texts()
    return [" ".join(row.split()) for row in rows]


def steps(page, number: int = 0) -> list[int]:
    """The steps written below a chart."""
    texts = page.locator(".chart").nth(number).locator(".tick-x").all_text_contents()
    return [int(text.replace(",", "")) for text in texts]


def test_the_head_says_what_it_is_and_how_good(pages):
    page = pages.open(sample_page(rows=40, runs=1))
    assert (
        page.get_by_role("heading", level=1).inner_text() == "WER 6.1 % (4.9-7.4) on 40 rows; tiny, LoRA 16"
    )
    assert page.title() == "tiny, LoRA 16"
    tile = page.locator(".tile").first.inner_text()
    assert "WER on main" in tile and "6.10 %" in tile and "4.90 % to 7.40 %" in tile
    assert "sounds: 1 recording wasn't found" in page.locator("#notes").inner_text()
    page.get_by_text("What this run is").click()
    assert "Peak memory 1.2 GiB" in table_rows(page, "#facts")


def test_scores_slices_labels_and_calibration(pages):
    page = pages.open(sample_page(rows=40, runs=1))
    rows = table_rows(page, "#score-table")
    assert rows[0].startswith("WER lower is better 6.10 % 4.90 % to 7.40 %")
    assert page.locator("#score-table .interval-plot circle").count() == 2
    slices = table_rows(page, "#slice-table")
    assert slices[0].startswith("speaker 4 fewer than 30 rows") and len(slices) == 5
    page.get_by_role("button", name="speaker 2", exact=True).click()
    assert page.locator("#rows-count").inner_text() == "8 of 40 rows, worst first"
    page.get_by_role("button", name="Take away the filter speaker: speaker 2").click()
    assert page.locator("#rows-count").inner_text() == "40 rows, worst first"
    page.get_by_label("Set").select_option("sounds")
    assert not page.locator("#slices").is_visible()
    head = page.locator("#class-table thead")
    assert head.get_by_role("columnheader", name="F1").get_attribute("aria-sort") == "ascending"
    head.get_by_role("button", name="Recall").click()
    recalls = [float(re.findall(r"([\d.]+) %", row)[1]) for row in table_rows(page, "#class-table")]
    assert recalls == sorted(recalls)
    drawing = page.locator("#calibration").get_by_role("img")
    assert "of answers with 55 % probability 50 % were right" in drawing.get_attribute("aria-label")
    assert "4.20 %" in page.locator("#calibration-note").inner_text()


def test_a_cell_of_the_confusions_leads_to_its_rows(pages):
    report = sample_page(rows=60, runs=1)
    page = pages.open(report)
    page.get_by_label("Set").select_option("sounds")
    given = next(one for one in report.runs[0].sets if one.name == "sounds")
    rows = [(row[2], row[-1]) for row in given.table.rows]
    wrong = next(pair for pair in rows if pair[0] != pair[1] and pair[1])
    page.get_by_role("button", name=f"truth {wrong[0]}, answer {wrong[1]}:").click()
    assert page.locator("#rows-count").inner_text().startswith(f"{rows.count(wrong)} of 60 rows")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "grid"
    none = next(pair for pair in rows if not pair[1])
    page.get_by_role("button", name=f"truth {none[0]}, answer (no label):").focus()
    page.keyboard.press("Enter")
    assert page.locator("#rows-count").inner_text().startswith(f"{rows.count(none)} of 60 rows")
    assert page.locator("#rows-chips").inner_text().startswith(f"truth {none[0]}, answer (no label)")
    # Arrow keys go from cell to cell, and the matrix is one stop of the Tab key.
    cells = page.locator(".matrix td button")
    assert cells.count() == len(LABELS) * (len(LABELS) + 1)
    cells.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    name = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert name.startswith(f"truth {LABELS[1]}, answer {LABELS[1]}:")
    assert page.locator(".matrix td button[tabindex='0']").count() == 1


def test_a_cell_finds_its_rows_by_what_the_truth_was_read_as(pages):
    """Of multiple choice the matrix has letters, and the references may be texts."""

    def chosen(given):
        columns = [*given.table.columns, "wanted"]
        rows = [[*row[:-1], "BA"[k % 2], "AB"[k % 2]] for k, row in enumerate(given.table.rows)]
        table = dataclasses.replace(given.table, columns=columns, rows=rows)
        return {"table": table, "confusion": {"labels": ["A", "B"], "counts": [[0, 10], [10, 0]]}}

    page = pages.open(changed_set(sample_page(rows=20, runs=1), "sounds", chosen))
    page.get_by_label("Set").select_option("sounds")
    page.get_by_role("button", name="truth B, answer A:").click()
    assert page.locator("#rows-count").inner_text().startswith("10 of 20 rows")


def test_many_labels_are_shown_by_the_worst(pages):
    labels = [f"label {k:02d}" for k in range(40)]
    counts = [[row if row == column else 0 for column in range(40)] for row in range(40)]
    counts[7][9] = 30
    confusion = {"labels": labels, "counts": counts}
    report = changed_set(sample_page(rows=20, runs=1), "sounds", lambda given: {"confusion": confusion})
    page = pages.open(report)
    page.get_by_label("Set").select_option("sounds")
    assert page.locator(".matrix tbody tr").count() == 24
    fits = "one => one.scrollWidth === one.clientWidth"
    assert page.locator(".matrix-holder").evaluate(fits)
    assert page.locator(".pairs li").all_inner_texts()[0].split("\n") == ["label 07 → label 09", "30 rows"]
    page.get_by_label("All 40 labels").check()
    assert page.locator(".matrix tbody tr").count() == 40


def test_charts_zoom_together_by_drag_wheel_and_keys(pages):
    page = pages.open(sample_page(rows=20, runs=1))
    titles = page.locator(".chart h3").all_inner_texts()
    assert titles[:6] == ["Loss", "Learning rate", "Gradient norm", "Clips per second", "Padding", "Memory"]
    assert titles[6:] == ["WER at evaluations", "Accuracy at evaluations"]
    keys = page.locator(".chart .line-key").all_inner_texts()
    assert keys[0].split("\n") == ["training", "evaluation", "evaluation zh", "evaluation sounds"]
    assert [key.split("\n") for key in keys[6:]] == [["main", "zh"], ["sounds"]]
    whole = steps(page)
    assert whole[0] == 0 and whole[-1] == 400
    reset = page.get_by_role("button", name="Reset zoom")
    assert reset.is_disabled()
    plot = page.locator(".chart-plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.4 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], middle, steps=4)
    assert plot.locator(".selection").count() == 1
    page.mouse.up()
    until(page, "document.querySelector('.chart .tick-x').textContent !== '0'")
    near = steps(page)
    assert near[0] > 120 and near[-1] < 280 and steps(page, 3)[0] > 120
    # The chart has the focus now, and so the wheel.
    page.mouse.wheel(0, -400)
    until(page, f"document.querySelectorAll('.chart .tick-x')[0].textContent !== '{near[0]}'")
    page.mouse.dblclick(box["x"] + 0.5 * box["width"], middle)
    until(page, "document.querySelector('.chart .tick-x').textContent === '0'")
    assert steps(page) == whole and reset.is_disabled()
    plot.focus()
    page.keyboard.press("+")
    until(page, "document.querySelector('.chart .tick-x').textContent !== '0'")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    said = page.locator("#announcements").inner_text()
    assert re.match(r"Step \d+: training [\d.]+, evaluation [\d.]+", said.replace("\xa0", ""))
    assert page.locator(".chart-tip").first.is_visible()
    reset.click()
    until(page, "document.querySelector('.chart .tick-x').textContent === '0'")


def test_a_wheel_that_passes_over_a_chart_scrolls_the_page(pages):
    page = pages.open(sample_page(rows=20, runs=1))
    plot = page.locator(".chart-plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    before = page.evaluate("scrollY")
    page.mouse.move(box["x"] + 200, box["y"] + 60)
    page.mouse.wheel(0, 200)
    until(page, f"scrollY > {before}")
    assert steps(page)[0] == 0


def test_the_loss_is_logarithmic_or_not_and_smoothed(pages):
    page = pages.open(sample_page(rows=20, runs=1))
    ticks = page.locator(".chart").first.locator(".tick-y")
    logarithmic = [float(text) for text in ticks.all_text_contents()]
    assert len(logarithmic) >= 3 and logarithmic[-1] / logarithmic[0] >= 10
    curves = page.locator(".chart").first.locator("path.curve")
    before = curves.count()
    page.get_by_label("Smoothing").select_option("25")
    until(page, "document.querySelector('.chart path.faint') !== null")
    assert curves.count() == before + 1
    page.get_by_label("Logarithmic loss").uncheck()
    until(page, "document.querySelector('.chart .tick-y').textContent === '0'")
    summary = page.locator(".chart").nth(1).locator("p.unseen").text_content()
    assert summary.startswith("Learning rate: from") and "highest 0.003 at step 40" in summary


def test_two_runs_are_compared_on_the_same_axes_and_rows(pages):
    page = pages.open(sample_page(rows=60, runs=2))
    assert page.get_by_role("heading", level=1).inner_text() == "2 runs"
    assert page.locator("#run-lines li").first.inner_text().startswith("output")
    table = table_rows(page, "#comparison-table")
    assert len(table) == 1 and "output-rank-64 against output" in table[0]
    assert (
        "−1.00 points" in table[0] and "0.012" in table[0] and table[0].endswith("output-rank-64 is better")
    )
    curves = page.locator(".chart").nth(2).locator("path.curve")
    assert curves.count() == 2
    page.get_by_role("group", name="Runs in the charts").get_by_label("output", exact=True).uncheck()
    until(page, "document.querySelectorAll('.chart')[2].querySelectorAll('path.curve').length === 1")
    heads = [head.strip() for head in page.locator(".grid-head .cell").all_text_contents()]
    assert heads[3:5] == ["output", "output-rank-64"]
    page.get_by_label("Show", exact=True).select_option("Right in output-rank-64 only")
    marks = page.locator(".grid-body .answer .result").all_text_contents()
    assert marks and marks == ["✗", "✓"] * (len(marks) // 2)
    # The other run's table: its scores order the rows, and the answers stay where they are.
    page.get_by_label("Run", exact=True).select_option("output-rank-64")
    assert page.locator("#rows-count").inner_text() == "60 rows, worst first"
    page.get_by_label("Set").select_option("sounds")
    assert table_rows(page, "#comparison-table")[0].endswith("no clear difference")


def test_rows_of_runs_are_matched_by_their_keys(pages):
    """The second run has the rows in another order, and lacks one."""
    report = sample_page(rows=12, runs=2)

    def turned(given):
        rows = list(reversed(given.table.rows))[:-1]
        keys = list(reversed(given.keys))[:-1]
        return {"table": dataclasses.replace(given.table, rows=rows), "keys": keys, "audio": [None] * 11}

    page = pages.open(changed_set(report, "main", turned, run=1))
    page.get_by_role("columnheader", name="Row", exact=True).get_by_role("button").click()
    answers = page.locator(".grid-body .grid-row .answer:nth-child(5)").all_text_contents()
    assert answers[0].strip() == "not in this run"
    told = report.runs[1].sets[0].table.rows
    assert answers[11].replace("✓", "").replace("✗", "").split() == told[11][3].split()


def test_a_page_without_scores_or_without_training_shows_what_there_is(pages):
    report = sample_page(rows=10, runs=1)
    bare = dataclasses.replace(report, runs=[dataclasses.replace(report.runs[0], sets=[])])
    page = pages.open(bare)
    assert page.locator("#contents a").all_inner_texts() == ["Training"]
    scored = dataclasses.replace(report.runs[0], series={}, evaluations={}, facts=[])
    page = pages.open(dataclasses.replace(report, runs=[scored]))
    assert page.locator("#contents a").all_inner_texts() == ["Scores", "Rows"]
    nothing = {"scores": {}, "slices": {}, "main_score": None, "reference": None, "audio": [None] * 10}
    plain = changed_set(report, "main", lambda given: nothing)
    page = pages.open(plain)
    assert page.locator(".grid-body .grid-row").count() == 10
    assert "Reference" not in page.locator(".grid-head").inner_text()
