"""How sure the model is, in the output: probabilities, chosen answers, the best ones of a search."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdl_toolkit.cli import run as command
from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.errors import SettingsError, UserError
from mdl_toolkit.generation.answer import Answer, Prompt
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.generation.likelihood import ChoiceScorer
from mdl_toolkit.infer.confidence.choices import listed_choices
from mdl_toolkit.infer.confidence.values import as_cell, rounded
from mdl_toolkit.infer.journal.lines import RowResult
from mdl_toolkit.infer.run import inference
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.settings import ConvertSettings, InferenceSettings
from support.data.clips import write_csv
from support.inference import make_table, predict
from support.models.plain import plain_logprobs
from support.models.tiny import make_model_folder

LABELS = ["cat", "catfish", "dog", "a bird sings"]


def _seen(monkeypatch: pytest.MonkeyPatch, answerer: Any) -> dict[int, tuple[Prompt, Answer]]:
    """What is asked and answered, by the row's place."""
    found: dict[int, tuple[Prompt, Answer]] = {}
    stream = answerer.stream

    def watched(self, prompts, slots):
        asked: list[Prompt] = []
        for place, answer in stream(self, (asked.append(prompt) or prompt for prompt in prompts), slots):
            found[asked[place].key] = asked[place], answer
            yield place, answer

    monkeypatch.setattr(answerer, "stream", watched)
    return found


def _json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "temperature": 2.0}, {"num_beams": 2, "repetition_penalty": 1.5}],
    ids=["greedy", "sampling", "beams"],
)
def test_scores_are_the_models_own(folder: Path, model: Path, monkeypatch, options: dict):
    make_table(folder, 6)
    (folder / "clips/4.wav").unlink()
    seen = _seen(monkeypatch, Generator)
    rows = predict(folder, model, scores=True, bf16=False, **options)
    names = ["id", "audio", "prediction", "note", "reference", "mean_logprob", "min_logprob", "probability"]
    assert list(rows[0]) == [*names, "error", "finish_reason"]
    plain = load_model(model, dtype=torch.float32)
    end = PromptBuilder(model).end_id
    for place, row in enumerate(rows):
        if place == 4:
            assert [row[name] for name in names[-3:]] == ["", "", ""] and row["error"]
            continue
        prompt, answer = seen[place]
        said = [*answer.tokens, *([end] if answer.finished else [])]
        expected = plain_logprobs(plain, prompt, said)
        assert float(row["mean_logprob"]) == pytest.approx(np.mean(expected), abs=2e-5)
        assert float(row["min_logprob"]) == pytest.approx(min(expected), abs=2e-5)
        assert float(row["probability"]) == pytest.approx(math.exp(sum(expected)), rel=1e-4)
    predict(folder, model, bf16=False, output=folder / "without.csv", **options)
    with open(folder / "without.csv", newline="", encoding="utf-8") as stream:
        assert [r["prediction"] for r in csv.DictReader(stream)] == [r["prediction"] for r in rows]


def test_numbers_are_plain_decimals_in_tables_and_numbers_in_json():
    assert [as_cell(rounded(x)) for x in (1e-12, 0.25, 1.0, -0.0, -123.45678912, math.nan)] == [
        "0.000000000001", "0.25", "1", "0", "-123.4567891", None,
    ]  # fmt: skip
    assert as_cell("null") == "null" and as_cell([{"text": "\u597d", "probability": 0.5}]) == (
        '[{"text": "\u597d", "probability": 0.5}]'
    )


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl"])
def test_an_answer_is_never_outside_its_choices(folder: Path, model: Path, monkeypatch, output: str):
    make_table(folder, 5)
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n\n", encoding="utf-8")
    seen = _seen(monkeypatch, ChoiceScorer)
    settings = InferenceSettings(
        input=folder / "in.csv", output=folder / output, model_name=str(model), bf16=False, num_workers=1,
        choices=str(folder / "labels.txt"), scores=output.endswith("csv"),
    )  # fmt: skip
    inference(settings)
    if output.endswith("jsonl"):
        rows: list[Any] = _json_rows(folder / output)
        assert all(type(row["probability"]) is type(row["runner_up_probability"]) is float for row in rows)
        assert "mean_logprob" not in rows[0]
    else:
        with open(folder / output, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    plain = load_model(model, dtype=torch.float32)
    builder = PromptBuilder(model)
    tokens = [list(builder.prepare(None, None, label).answer) for label in LABELS]
    for place, row in enumerate(rows):
        every = [plain_logprobs(plain, seen[place][0], said) for said in tokens]
        sums = np.array([sum(numbers) for numbers in every])
        shares = np.exp(sums - sums.max()) / np.exp(sums - sums.max()).sum()
        first, second = np.argsort(-sums)[:2]
        assert (row["prediction"], row["runner_up"]) == (LABELS[first], LABELS[second])
        assert float(row["probability"]) == pytest.approx(shares[first], abs=1e-5)
        assert float(row["runner_up_probability"]) == pytest.approx(shares[second], abs=1e-5)
        if "mean_logprob" in row:
            assert float(row["mean_logprob"]) == pytest.approx(np.mean(every[first]), abs=2e-5)
            assert float(row["min_logprob"]) == pytest.approx(min(every[first]), abs=2e-5)
    assert "finish_reason" not in rows[0]


def test_a_choice_is_asked_for_as_it_is_taught(folder: Path, model: Path, monkeypatch):
    """The prompt and the tokens are those of a converted dataset, bit for bit."""
    make_table(folder, 4)
    lines = [(f"clips/{n}.wav", text, "Which?") for n, text in enumerate(LABELS)]
    write_csv(folder / "in.csv", ["audio", "prediction", "user_prompt"], lines)
    convert_dataset(ConvertSettings(input=folder / "in.csv", output=folder / "set", model_name=str(model)))
    seen = _seen(monkeypatch, ChoiceScorer)
    predict(folder, model, choices=",".join(LABELS))
    examples = ClipDataset.open([folder / "set"])
    for place, text in enumerate(LABELS):
        prompt, example = seen[place][0], examples[place]
        taught = example.labels[example.labels != -100].tolist()
        assert prompt.choices is not None and list(prompt.choices.tokens[place]) == taught, text
        assert [*prompt.input_ids.tolist(), *taught] == example.input_ids.tolist()


def test_a_rows_own_choices_come_first(folder: Path, model: Path, capsys):
    make_table(folder, 9)
    cells = ['["a, b","c"]', "dog; cat", "['x', 'y']", "", "null", "[1, 2]", "one, two", "dog;dog", "dog;"]
    write_csv(folder / "in.csv", ["audio", "choices"], [(f"clips/{n}.wav", c) for n, c in enumerate(cells)])
    rows = predict(folder, model, choices=",".join(LABELS))
    sets = [{"a, b", "c"}, {"dog", "cat"}, {"x", "y"}, set(LABELS), set(LABELS), {"1", "2"}]
    for row, choices in zip(rows, sets, strict=False):
        assert row["prediction"] in choices and row["runner_up"] in choices - {row["prediction"]}, row
    assert [row["choices"] for row in rows] == cells, "the input's own column stays"
    assert rows[6]["error"].startswith("its column choices: one choice only, 'one, two': two at least")
    assert "choice 'dog' is there twice" in rows[7]["error"] and "choice 2 is empty" in rows[8]["error"]
    capsys.readouterr()
    # The column alone is enough; a row without choices then has no answer.
    rows = predict(folder, model, overwrite=True)
    assert (
        rows[1]["prediction"] in sets[1]
        and "its column choices is empty" in rows[3]["error"]
        and not rows[3]["prediction"]
    )
    assert "answers: the likeliest of the choices of its row (column choices)" in capsys.readouterr().err
    rows = predict(folder, model, overwrite=True, choices="none")
    assert not {row["prediction"] for row in rows} & {"dog", "cat"} and "runner_up" not in rows[0]
    with pytest.raises(SettingsError, match=r"--num-beams has no effect .* --choices none to answer freely"):
        predict(folder, model, num_beams=2)


def test_choices_of_json_rows_are_lists(folder: Path, model: Path):
    make_table(folder, 2)
    records = [{"audio": "clips/0.wav", "choices": LABELS}, {"audio": "clips/1.wav", "choices": [None, "x"]}]
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = InferenceSettings(
        input=folder / "in.jsonl", output=folder / "o.jsonl", model_name=str(model), num_workers=1
    )
    inference(settings)
    rows = _json_rows(folder / "o.jsonl")
    assert rows[0]["prediction"] in LABELS and rows[0]["choices"] == LABELS
    assert rows[1]["prediction"] is None and "a JSON list of texts expected" in rows[1]["error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--choices", "labels.txt"], "no file or folder labels.txt; as a list it is one choice"),
        (["--choices", "a,b,a"], "choice 3: 'a' is there twice, before it as choice 1"),
        (["--choices", "a,,b"], "choice 2 is empty"),
        (["--choices", "a,<|im_end|>"], "choice contains <|im_end|>"),
        (["--choices", '["a"'], "a JSON list of texts expected"),
        (["--choices", "one.txt"], "one.txt: two choices at least, each on a line of its own"),
        (["--choices", "gap.txt"], "gap.txt line 2 is empty"),
        (["--choices", "twice.txt"], "twice.txt line 3: 'dog' is there twice, before it as twice.txt line 1"),
        (["--choices", "t.csv"], "t.csv: which of its columns has the choices? They are 'a', 'b': name one"),
        (["--choices", "t.csv:c"], "t.csv: it has no column 'c'. They are 'a', 'b'"),
        (["--choices", "t.csv:a"], "t.csv: column a has one value only"),
        (["--choices", "t.csv:b"], "t.csv line 3: column b is empty"),
        (["--choices", "a,b", "--num-beams", "2"], "--num-beams has no effect with --choices"),
        (["--choices", "a,b", "--do-sample"], "--do-sample has no effect with --choices"),
        (["--choices", "a,b", "--n-best", "2"], "--n-best has no effect with --choices"),
        (["--n-best", "3", "--num-beams", "2"], "--n-best 3 needs as many beams: --num-beams 3"),
        (["--n-best", "0"], "--n-best 0: at least 1 expected"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(folder: Path, model: Path, capsys, options, said: str):
    write_csv(folder / "in.csv", ["audio"], [("0.wav",)])
    (folder / "one.txt").write_text("dog\n\n")
    (folder / "gap.txt").write_text("dog\n\ncat\n")
    (folder / "twice.txt").write_text("dog\ncat\ndog\n")
    (folder / "t.csv").write_text("a,b\nx,y\nx,\n")
    words = ["inference", "in.csv", "--output", "out.csv", "--model-name", str(model)]
    assert command([*words, *options]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]
    assert not list(folder.glob("out.csv*"))


@pytest.mark.parametrize("name", ["train.csv", "train.csv:prediction", "other.jsonl:sound", "one.csv.gz"])
def test_a_tables_column_has_the_choices(folder: Path, model: Path, name: str):
    make_table(folder, 2)
    write_csv(folder / "train.csv", ["audio", "prediction"], [(f"{n}.wav", LABELS[n % 4]) for n in range(40)])
    (folder / "other.jsonl").write_text("".join(json.dumps({"sound": text}) + "\n" for text in LABELS))
    (folder / "one.csv.gz").write_bytes(gzip.compress(b"label\ncat\ncatfish\ndog\na bird sings\n"))
    settings = InferenceSettings(
        input=folder / "in.csv", output=folder / "o.csv", model_name=str(model), choices=str(folder / name)
    )
    assert not settings.problems() and listed_choices(settings) == tuple(LABELS)
    rows = predict(folder, model, choices=str(folder / name))
    assert {row["prediction"] for row in rows} <= set(LABELS)


def test_choices_that_the_model_cannot_read_are_refused(folder: Path):
    small = make_model_folder(folder / "small", text_config={"max_position_embeddings": 60})
    make_table(folder, 2)
    with pytest.raises(SettingsError, match=r"has \d+ tokens; the model reads 60 at most"):
        predict(folder, small, choices=f"dog,{'x y ' * 40}")
    lines = [("clips/0.wav", "dog;cat"), ("clips/1.wav", f"dog;{'x ' * 25}")]
    write_csv(folder / "in.csv", ["audio", "choices"], lines)
    rows = predict(folder, small)
    assert rows[0]["prediction"] in ("dog", "cat")
    assert "after a prompt of" in rows[1]["error"] and "the model reads 60 at most" in rows[1]["error"]


def test_the_best_of_a_search(folder: Path, model: Path, monkeypatch):
    make_table(folder, 5)
    rows = predict(folder, model, n_best=3, scores=True, bf16=False)
    plain = predict(folder, model, num_beams=3, bf16=False, output=folder / "plain.csv")
    for row, searched in zip(rows, plain, strict=True):
        best = json.loads(row["n_best"])
        assert searched["prediction"] in [one["text"] for one in best]
        assert [one["probability"] for one in best] == sorted((p["probability"] for p in best), reverse=True)
        assert best[0] == {"text": row["prediction"], "probability": float(row["probability"])}
        assert len({one["text"] for one in best}) == len(best) <= 3
        assert all(0 <= one["probability"] <= 1 for one in best)
    more = predict(folder, model, n_best=2, num_beams=3, bf16=False, output=folder / "more.csv")
    assert all(row["prediction"] == json.loads(row["n_best"])[0]["text"] for row in more)
    assert "probability" not in more[0] and max(len(json.loads(row["n_best"])) for row in more) == 2
    monkeypatch.setattr(PromptBuilder, "decode", lambda self, ids, skip_special=False: "the same")
    alike = predict(folder, model, n_best=3, bf16=False, output=folder / "alike.csv")
    assert [len(json.loads(row["n_best"])) for row in alike] == [1] * 5, "a text is there once"


@pytest.mark.parametrize("options", [{"quantization": "8bit"}, {"quantization": "4bit"}, {"bf16": True}])
def test_smaller_weights_choose_too(folder: Path, model: Path, options: dict):
    make_table(folder, 3)
    rows = predict(folder, model, choices=",".join(LABELS), scores=True, **options)
    assert all(row["prediction"] in LABELS and 0 < float(row["probability"]) <= 1 for row in rows)


@pytest.mark.parametrize("options", [{"scores": True}, {"n_best": 2}, {"choices": "cat,catfish,dog"}])
def test_work_with_these_options_is_resumed(
    folder: Path, model: Path, interrupted_after, options: dict[str, Any]
):
    make_table(folder, 20)
    predict(folder, model, batch_size=1, output=folder / "whole.csv", **options)
    with interrupted_after(9):
        predict(folder, model, batch_size=1, **options)
    with pytest.raises(UserError, match=f"--{next(iter(options)).replace('_', '-')} was .*--overwrite"):
        predict(folder, model, batch_size=1)
    if "choices" in options:
        with pytest.raises(UserError, match="--choices was cat, catfish, dog, now cat, dog"):
            predict(folder, model, batch_size=1, choices="cat,dog")
    predict(folder, model, batch_size=1, **options)
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def test_lines_of_a_journal_without_these_options_are_as_before():
    assert RowResult(3, "a", None, True).as_json() == [3, "a", None, 1]
    assert RowResult.from_json([3, "a", None, 1]) == RowResult(3, "a", None, True)
    rich = RowResult(3, "a", confidence={"probability": 0.5})
    assert RowResult.from_json(json.loads(json.dumps(rich.as_json()))) == rich


def test_where_memory_is_short_fewer_rows_are_scored_at_a_time(folder: Path, model: Path, monkeypatch):
    make_table(folder, 6)
    whole = predict(folder, model, choices=",".join(LABELS), batch_size=4)
    read, sizes = ChoiceScorer.read_prompts, []

    def small(self, prompts, cache):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(self, prompts, cache)

    monkeypatch.setattr(ChoiceScorer, "read_prompts", small)
    rows = predict(folder, model, choices=",".join(LABELS), batch_size=4, output=folder / "small.csv")
    assert 4 in sizes and [r["prediction"] for r in rows] == [r["prediction"] for r in whole]


def test_columns_of_these_names_are_not_taken_for_ours(folder: Path, model: Path):
    """Another model's probability beside this one's answer would mislead whoever reads it."""
    make_table(folder, 2)
    lines = [("clips/0.wav", "0.9", "old"), ("clips/1.wav", "0.8", "older")]
    write_csv(folder / "in.csv", ["audio", "probability", "runner_up"], lines)
    rows = predict(folder, model, scores=True)
    assert [row["probability_1"] for row in rows] == ["0.9", "0.8"]
    assert [row["runner_up_1"] for row in rows] == ["old", "older"]
    assert all(float(row["probability"]) < 0.8 and row["runner_up"] == "" for row in rows)
    assert list(rows[0])[:3] == ["audio", "probability", "runner_up"]
