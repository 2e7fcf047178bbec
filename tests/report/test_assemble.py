"""The page is one file, fetches nothing, and no text in its data can break out of it."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from mdl_toolkit.report.assemble import assemble, embedded_json
from support.report.sample import HTML_TEXT, ODD_TEXTS, sample_page


class Elements(html.parser.HTMLParser):
    """The elements of a page, and what stands in its data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][1].get("id") == "data" and self.tags[-1][0] == "script":
            self.data += data


@pytest.fixture(scope="module")
def page() -> str:
    return assemble(sample_page(rows=20))


def test_the_data_are_in_it_as_they_were(page):
    found = json.loads(Elements(page).data)
    assert [run["name"] for run in found["runs"]] == ["output", "output-rank-64"]
    rows = found["runs"][0]["sets"][0]["table"]["rows"]
    assert [row[2] for row in rows[: len(ODD_TEXTS)]] == list(ODD_TEXTS)
    assert found["runs"][0]["series"]["loss"][150] == [151, None]
    assert found["audio"][0]["src"].startswith("data:audio/wav;base64,")


def test_texts_are_texts(page):
    elements = Elements(page).tags
    assert not [attributes for tag, attributes in elements if tag == "img"]
    assert page.count(HTML_TEXT) == 0
    assert "\u2028" not in page and "\u2029" not in page
    assert page.count("<!--") == 0


def test_nothing_is_fetched(page):
    for _, attributes in Elements(page).tags:
        for name in ("src", "href", "srcset", "poster", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), attributes
    outside = page[: page.index('<script type="application/json"')]
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", outside)


def test_numbers_that_json_has_not_are_null_and_halves_of_pairs_can_be_written():
    text = embedded_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": "\ud800x", "d": "a</script>"})
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": "\ud800x", "d": "a</script>"}
    text.encode()
    assert "</" not in text


def test_a_place_in_a_text_is_not_filled(page):
    assert "{{data}} {{style}}" in json.loads(Elements(page).data)["runs"][0]["sets"][0]["table"]["rows"][8]
