"""Whatever a table of predictions holds: scores that JSON can say, or a line with what is wrong."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from typing import Any

import pytest

from mdl_toolkit.settings.score_names import MAIN_SCORE
from support.evaluations import Evaluate

CELLS = [
    "", " ", "null", "nan", "yes", "no", "Yes.", "(b)", "a; b", '["a", "b"]', "[", "{}", "0", "-1",
    "1e999", "中文", "🙂", "'", '"', "a\nb", "\t", "<unk>", "[noise]", "a,b", "x" * 3000, "\u202eabc",
    "e\u0301", "%", "…", "١٢",
]  # fmt: skip
VALUES: list[Any] = [*CELLS, None, 1, 1.5, True, [], ["a"], ["a", None], [1], math.nan, {"a": 0.5}, {}]
NAMES = [
    "reference",
    "label",
    "prediction",
    "error",
    "probability",
    "choices",
    "tag_scores",
    "lang",
    "id",
    "",
]


def table(rng: random.Random, kind: str) -> str:
    names = ["reference", "prediction", *rng.sample(NAMES[3:], rng.randrange(4))]
    rng.shuffle(names)
    rows = range(rng.choice((0, 1, 2, 5, 40)))
    if kind == "jsonl":
        some = (n for n in names if rng.random() < 0.95)
        return "".join(json.dumps({name: rng.choice(VALUES) for name in some}) + "\n" for _ in rows)
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(names)
    writer.writerows([[rng.choice(CELLS) for _ in names] for _ in rows])
    return stream.getvalue()


def no_nan(name: str) -> None:
    raise AssertionError(f"{name} in scores.json")


@pytest.mark.parametrize("task", MAIN_SCORE)
def test_odd_tables(evaluate: Evaluate, task: str):
    rng = random.Random(f"{task} 2")
    codes = []
    for number in range(16):
        kind = rng.choice(("csv", "jsonl"))
        name = f"p.{kind}"
        words = rng.choice(([], ["--slice-by", "reference"], ["--match-by", "id", "--against", name]))
        files = {name: table(rng, kind)}
        done = evaluate(files, name, "--task", task, "--resamples", "20", *words)
        codes.append(done.code)
        assert done.code in (0, 2), (number, done.err)
        if done.code == 2:
            assert done.err.splitlines()[-1].startswith("error: "), (number, done.err)
        else:
            text = (done.folder / "scores.json").read_text(encoding="utf-8")
            found = json.loads(text, parse_constant=no_nan)
            assert found["task"] == task and done.rows
    assert 2 in codes and (0 in codes or task == "choice")  # odd texts are no options
