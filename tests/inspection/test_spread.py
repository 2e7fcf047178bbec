"""How lengths are summed up: percentiles, and bars of a round width that have every row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mdl_toolkit.inspection.output.page import page
from mdl_toolkit.inspection.output.summary import spread
from mdl_toolkit.inspection.output.text import spread_text


@pytest.mark.parametrize("scale", [0.001, 0.3, 1.0, 7.3, 200.0])
def test_bars_have_every_row_and_round_edges(scale: float):
    values = np.random.default_rng(0).lognormal(0, 0.5, 1000) * scale
    found = spread(values)
    assert found is not None
    bars = found["histogram"]
    assert sum(bar["rows"] for bar in bars) == 1000 and len(bars) <= 20
    assert all(one["high"] == other["low"] for one, other in pairwise(bars))
    assert bars[0]["low"] <= values.min() + 1e-3 and bars[-1]["high"] >= values.max() - 1e-3
    if scale < 0.01:
        return  # edges are told to a thousandth
    for bar in bars[:-1]:
        inside = np.count_nonzero((values >= bar["low"]) & (values < bar["high"]))
        assert abs(inside - bar["rows"]) <= 2


def test_whole_numbers_have_whole_bars():
    found = spread(np.array([1.0] * 50 + [2.0] * 30 + [3.0] + [40.0]), whole=True)
    assert found is not None
    bars = found["histogram"]
    assert [bar["rows"] for bar in bars][:2] == [50, 30] and sum(bar["rows"] for bar in bars) == 82
    assert all(float(bar["low"]).is_integer() for bar in bars) and bars[-1]["high"] == 41


def test_one_length_is_said_once():
    found = spread(np.array([2.0, 2.0]))
    assert found is not None and spread_text(found, "s") == "all of 2 s"
    assert spread(np.zeros(0)) is None


def test_a_page_escapes_what_it_shows():
    """Names, answers, prompts and reasons are the user's: none of them is markup."""
    evil = '<img src=x onerror="alert(1)">'
    lengths = spread(np.array([1.0, 2.0]))
    one = {
        "name": evil, "rows": 2, "usable": 1, "seconds": 3.0, "model": None, "order": "audio-first",
        "clips": lengths, "files": [{"kind": evil, "rate": 8000, "channels": 1, "rows": 2}],
        "answers": {
            "rows": 2, "distinct": 1, "labels": True, "unit": "words", "lengths": lengths,
            "most_frequent": [{"answer": evil, "rows": 2}],
        },
        "prompts": [{"system_prompt": evil, "user_prompt": evil, "rows": 2}],
    }  # fmt: skip
    finding = {
        "level": "problem", "topic": evil, "text": evil, "remedy": evil, "rows": 1, "lines": [2],
        "examples": [evil],
    }  # fmt: skip
    html = page(
        {
            "ok": False, "problems": 1, "warnings": 0, "notes": 0, "findings": [finding], "sets": [one, one],
            "refused": [{"line": 2, "reason": evil}],
            "copies": [{"kind": evil, "likeness": 1.0, "lines": [2], "other_lines": [3]}],
        }
    )  # fmt: skip
    assert "<img" not in html and html.count("&lt;img") >= 12
