"""Curves of a run: what is read of its metrics, whatever has happened to the run."""

from __future__ import annotations

import json

import pytest

from mdl_toolkit.errors import UserError
from mdl_toolkit.report.curves import MOST_POINTS, read_curves, thinned
from mdl_toolkit.report.data import Point


def written(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def step(number, **values):
    return {"step": number, "epoch": 0.1, "loss": 1.0 / number, "clips": 8, "seconds": 0.5, **values}


def test_each_name_is_a_curve(tmp_path):
    curves = read_curves(
        written(
            tmp_path / "metrics.jsonl",
            {
                "step": 0,
                "epoch": 0.0,
                "eval_loss": 3.0,
                "eval_rows": 9,
                "eval_seconds": 1.5,
                "eval_loss/old": 1.0,
            },
            step(1, grad_norm=2.0, learning_rate=0.001, padding_share=0.25, memory=1_234_567_890, tokens=5),
            step(2, **{"loss/speech": 0.75, "clips/speech": 3}),
            {
                "step": 2,
                "eval_loss": 2.0,
                "eval_wer": 0.5,
                "eval_wer/old": 0.25,
                "eval_rows": 10,
                "eval_seconds": 0.5,
            },
            {"train_runtime": 3.0, "peak_memory_training": 7},
        )
    )
    assert curves.series == {
        "loss": [(1, 1.0), (2, 0.5)],
        "learning_rate": [(1, 0.001)],
        "grad_norm": [(1, 2.0)],
        "clips_per_second": [(1, 16.0), (2, 16.0)],
        "padding_share": [(1, 0.25)],
        "memory": [(1, 1_234_567_890)],
        "loss/speech": [(2, 0.75)],
    }
    assert curves.evaluations == {
        "eval_loss": [(0, 3.0), (2, 2.0)],
        "eval_loss/old": [(0, 1.0)],
        "eval_wer": [(2, 0.5)],
        "eval_wer/old": [(2, 0.25)],
    }
    assert (curves.step, curves.seconds, curves.eval_rows) == (2, 3.0, 10)
    assert curves.summary["peak_memory_training"] == 7
    assert curves.last("eval_loss") == 2.0


def test_the_first_set_s_numbers_are_shown_once(tmp_path):
    line = {
        "step": 2,
        "eval_loss": 2.0,
        "eval_rows": 10,
        "eval_rows/dev": 10,
        "eval_loss/dev": 2.0,
        "eval_loss/old": 3.0,
    }
    curves = read_curves(written(tmp_path / "metrics.jsonl", step(2), line))
    assert curves.evaluations == {"eval_loss/dev": [(2, 2.0)], "eval_loss/old": [(2, 3.0)]}
    assert curves.last("eval_loss") == 2.0


def test_a_killed_and_a_resumed_run_are_read(tmp_path):
    path = written(
        tmp_path / "metrics.jsonl",
        step(1),
        step(2),
        step(3),
        "\n",
        "{}\n",
        "[1]\n",
        step(2, loss=9.0),
        '{"step": 3, "lo',
    )
    curves = read_curves(path)
    assert curves.series["loss"] == [(1, 1.0), (2, 9.0), (3, pytest.approx(1 / 3, abs=1e-6))]
    assert curves.summary == {}


def test_a_loss_that_was_no_number_is_a_gap(tmp_path):
    path = written(tmp_path / "metrics.jsonl", step(1, loss=None), step(2), '{"step": 3, "loss": NaN}\n')
    assert read_curves(path).series["loss"] == [(1, None), (2, 0.5), (3, None)]


def test_a_curve_of_nothing_is_not_there(tmp_path):
    assert "grad_norm" not in read_curves(written(tmp_path / "m", step(1, grad_norm=None))).series


def test_a_file_that_can_t_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics.jsonl: can't be read"):
        read_curves(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("count", [MOST_POINTS, MOST_POINTS + 1, 100_000])
def test_long_curves_keep_ends_highs_lows_and_gaps(count):
    points: list[Point] = [(number, float(number % 97)) for number in range(count)]
    points[count // 3] = (count // 3, 1e6)
    points[count // 2] = (count // 2, -1e6)
    points[count // 4] = (count // 4, None)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert kept == sorted(kept, key=lambda point: point[0])
    wanted = {points[0], points[-1], points[count // 3], points[count // 2], points[count // 4]}
    assert wanted <= {*kept}
    assert {*kept} <= {*points}
