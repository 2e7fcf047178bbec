"""The report: one page, whole in itself, that hostile text cannot break out of."""

from __future__ import annotations

import base64
import html.parser
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from mdl_toolkit.demo import charts
from mdl_toolkit.demo.report import Answered, FinishedStep, Outcome, render, write_report

VOID = {"meta", "link", "img", "br", "line", "path"}
HOSTILE = "</title></style><script>alert('x')</script>\" onload=\"evil() &amp; é\u202e 你好"


class Page(html.parser.HTMLParser):
    """Reads a page strictly: every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outcome(text: str = "a bell") -> Outcome:
    wave = (0.5 * np.sin(np.arange(8000) * 0.3)).astype(np.float32)
    clips = [
        Answered("clips/0.wav", wave, "a bell", "a bell"),
        Answered(text, wave, text, "a drum"),
        Answered("clips/2.wav", wave, "a bell", text),
    ]
    metrics: list[Any] = [{"step": k, "loss": 2.0 / k, "learning_rate": 1e-3 / k} for k in range(1, 30)]
    metrics += [{"step": 29, "eval_loss": 0.2}, {"train_runtime": 3.0}]
    return Outcome(clips, metrics, [FinishedStep(text, f"mdl-toolkit train {text}", 75.0)], [(text, text)])


def test_the_page_is_well_formed_and_says_what_happened():
    page = Page(render(outcome()))
    text = " ".join(page.text)
    assert "2 of 3 unheard clips named correctly" in text
    assert "66.7 %" in text
    assert "1 min 15 s" in text
    assert "mdl-toolkit train a bell" in text
    assert page.tags.count("audio") == page.tags.count("img") > 0


def test_nothing_is_fetched_from_anywhere():
    page = Page(render(outcome()))
    links = [
        value for name, value in page.attributes if name in ("src", "href", "srcset", "poster", "action")
    ]
    assert links
    assert all(value.startswith("data:") for value in links)
    styles = render(outcome())
    assert not re.search(r"@import|url\(|https?://", styles)


def test_hostile_text_stays_text():
    rendered = render(outcome(HOSTILE))
    page = Page(rendered)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert HOSTILE in "".join(page.text)


def test_empty_answers_and_missing_metrics_still_make_a_page():
    wave = np.zeros(100, np.float32)
    page = Page(render(Outcome([Answered("c", wave, "a bell", "")], [], [], [])))
    assert "(nothing)" in "".join(page.text)
    Page(render(Outcome([], [], [], [])))


def test_the_file_appears_whole(tmp_path):
    write_report(tmp_path / "report.html", outcome())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(outcome())
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_png_holds_the_picture():
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    content = charts.png(picture)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        name, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert struct.unpack(">I", content[place + 8 + length : place + 12 + length])[0] == zlib.crc32(
            name + body
        )
        chunks[name] = body
        place += 12 + length
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (3, 2)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert rows == b"\0" + picture[0].tobytes() + b"\0" + picture[1].tobytes()


def test_a_spectrogram_shows_high_above_low():
    time = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (200, 6000))
    brightest = [int(charts.spectrogram(wave).sum(axis=(1, 2)).argmax()) for wave in (low, high)]
    assert brightest[0] > brightest[1]
    assert charts.spectrogram(np.zeros(10, np.float32)).shape[0] == 64


def test_charts_leave_out_what_has_no_place():
    drawn = charts.line_chart([charts.Series("line", [(1, 0.0), (2, float("nan")), (3, 2.0)])], "x", log=True)
    assert "nan" not in drawn
    assert charts.line_chart([charts.Series("line", [])], "x") == ""
    assert charts.smooth([(1, 1.0), (2, 3.0), (3, 5.0)], 2) == [(1, 1.0), (2, 2.0), (3, 4.0)]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256))])
def test_data_addresses_carry_their_bytes(content):
    head, _, body = charts.data_uri("audio/wav", content).partition(",")
    assert head == "data:audio/wav;base64"
    assert base64.b64decode(body) == content
