"""The command as Python: columns, prompts, limits, failing rows, several processes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.data.prompt.record import PromptRecord, PromptUse
from mdl_toolkit.errors import MdlError, UserError
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.infer import run as run_module
from mdl_toolkit.infer import work as work_module
from mdl_toolkit.infer.processes.peer import Peer
from mdl_toolkit.infer.prompts import RowReader
from mdl_toolkit.infer.run import inference
from mdl_toolkit.model_folders.manifest import ModelManifest
from mdl_toolkit.settings import InferenceSettings
from support.data.clips import tone, write_csv, write_wav
from support.inference import make_table, predict, watch_rows
from support.models.tiny import make_model_folder


@pytest.mark.parametrize(
    ("weights", "native", "asked", "runs_in"),
    [
        (torch.bfloat16, True, None, "bfloat16"),
        (torch.bfloat16, True, False, "float32"),
        (torch.bfloat16, False, None, "float32"),
        (torch.float32, True, None, "float32"),
        (torch.float32, False, True, "bfloat16"),
    ],
)
def test_a_cpu_runs_bfloat16_weights_in_bfloat16_where_that_is_fast(
    folder: Path, model: Path, monkeypatch, capsys, weights, native, asked, runs_in
):
    copy = folder / "model"
    copytree(model, copy)
    tensors = load_file(copy / "model.safetensors")
    floats = {name: t.to(weights) if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(floats, copy / "model.safetensors")
    monkeypatch.setattr(work_module, "cpu_has_bfloat16", lambda: native)
    make_table(folder, 3)
    assert len(predict(folder, copy, bf16=asked)) == 3
    assert f"({runs_in}, cpu)" in "".join(capsys.readouterr())


def test_every_column_stays_in_its_place(folder: Path, model: Path):
    source = make_table(folder)
    with open(source, newline="") as stream:
        before = list(csv.DictReader(stream))
    rows = predict(folder, model)
    assert list(rows[0]) == ["id", "audio", "prediction", "note", "reference", "finish_reason"]
    assert [row["id"] for row in rows] == [f"id-{n}" for n in range(10)]
    assert [row["note"] for row in rows] == [row["note"] for row in before]
    assert [row["reference"] for row in rows] == [row["prediction"] for row in before]
    assert all(row["prediction"] and not row["prediction"].startswith("tone") for row in rows)
    assert not (folder / "out.csv.partial").exists()


def test_prediction_is_added_where_there_is_none(folder: Path, model: Path):
    make_table(folder, 2)
    write_csv(
        folder / "in.csv", ["audio", "start", "end"], [("clips/0.wav", "", ""), ("clips/1.wav", "0.1", "0.3")]
    )
    rows = predict(folder, model)
    assert list(rows[0]) == ["audio", "start", "end", "prediction", "finish_reason"]
    assert rows[1]["start"] == "0.1" and rows[1]["prediction"]


def test_a_failing_row_says_so_and_the_others_go_on(folder: Path, model: Path, capsys):
    make_table(folder, 6)
    (folder / "clips/1.wav").write_bytes(b"RIFFnot a sound")
    (folder / "clips/4.wav").unlink()
    lines = (folder / "in.csv").read_text().splitlines()
    (folder / "in.csv").write_text("\n".join([*lines, "id-9,,nothing,x", "too,many,cells,in,it"]) + "\n")
    good = predict(folder, model)
    assert "error" in good[0] and [bool(row["error"]) for row in good] == [
        False, True, False, False, True, False, True, True,
    ]  # fmt: skip
    assert all(bool(row["prediction"]) != bool(row["error"]) for row in good)
    assert "no such file" in good[4]["error"] and "cells" in good[7]["error"]
    shown = capsys.readouterr().err
    assert "line 3:" in shown and "4 of 8 rows have no prediction" in shown


def _prompts_used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    used: list[str] = []
    builder = PromptBuilder
    original = builder.prepare

    def prepare(self, system, user, answer, order="audio-first"):
        used.append(f"{system}|{user}|{order}")
        return original(self, system, user, answer, order)

    monkeypatch.setattr(builder, "prepare", prepare)
    return used


def test_prompts_come_from_row_then_options_then_training(folder: Path, model: Path, monkeypatch, capsys):
    tuned = make_model_folder(folder / "tuned")
    record = PromptRecord(
        order="text-first", user_prompt="which tone?", seen=(PromptUse(user_prompt="which tone?", rows=7),)
    )
    ModelManifest(kind="model", prompts=record).write(tuned)
    make_table(folder, 2)
    used = _prompts_used(monkeypatch)
    predict(folder, tuned)
    assert set(used) == {"None|which tone?|text-first"}
    assert "differ" not in capsys.readouterr().err

    used.clear()
    predict(folder, tuned, user_prompt="what?", prompt_order="audio-first")
    assert set(used) == {"None|what?|audio-first"}
    shown = capsys.readouterr().err
    assert "--prompt-order audio-first, but the model was trained with text-first" in shown
    assert "differ from those of training" in shown and "'which tone?'" in shown
    assert (
        shown.count("differ from those") == 1
        and "2 rows used prompts that were not in the training data" in shown
    )

    used.clear()
    write_csv(folder / "in.csv", ["audio", "user_prompt"], [("clips/0.wav", "mine"), ("clips/1.wav", "null")])
    predict(folder, tuned, system_prompt="be brief")
    assert sorted(used) == ["be brief|mine|text-first", "be brief|which tone?|text-first"]


def test_limits_of_length(folder: Path, model: Path, monkeypatch, capsys):
    make_table(folder, 1)
    budgets = []
    watch_rows(monkeypatch, lambda prompt: budgets.append((prompt.budget, len(prompt.input_ids))))

    def said() -> str:
        return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("generation: "))

    predict(folder, model, max_new_tokens=5)
    assert budgets.pop()[0] == 5
    assert said() == "generation: greedy; answers of at most 5 tokens (--max-new-tokens)"
    predict(folder, model, max_new_tokens=None)
    budget, prompt = budgets.pop()
    assert (budget, said()) == (128, "generation: greedy; answers of at most 128 tokens (by default)")
    predict(folder, model, max_new_tokens=None, max_length=prompt + 3)
    assert budgets.pop()[0] == 3, "prompt included, as 0.1.0 counts"
    predict(folder, model, max_new_tokens=6, max_length=prompt + 3)
    assert budgets.pop()[0] == 6, "the option to use wins"
    predict(folder, model, max_new_tokens=None, user_prompt="long " * 90)
    budget, longer = budgets.pop()
    assert budget == 128 and 100 < longer < 128, "a long prompt takes nothing from the answer"
    with pytest.raises(
        MdlError, match=f"prompt has {prompt} tokens, so --max-length {prompt} leaves no room"
    ):
        predict(folder, model, max_new_tokens=None, max_length=prompt)
    assert not budgets


@pytest.mark.parametrize(
    ("longest", "generation", "limit", "said"),
    [
        (0, {}, 128, "at most 128 tokens (by default)"),
        (85, {}, 128, "at most 128 tokens (the longest in training had 85)"),
        (200, {}, 300, "at most 300 tokens (the longest in training had 200)"),
        (0, {"max_new_tokens": 9}, 9, "at most 9 tokens (by the model's settings)"),
        (8, {"max_new_tokens": 9}, 9, "by the model's settings; the longest in training had 8"),
        (200, {"max_new_tokens": 9}, 300, "at most 300 tokens (the longest in training had 200)"),
        (0, {"max_length": 60}, None, "prompt and answer of at most 60 tokens (by the model's settings)"),
        (
            200,
            {"max_length": 60},
            300,
            "at most 60 tokens (by the model's settings; the longest in training had",
        ),
        (0, {"max_length": 60, "max_new_tokens": 9}, 9, "at most 9 tokens (by the model's settings)"),
    ],
)
def test_an_answer_may_be_as_long_as_those_of_the_training(
    folder: Path, monkeypatch, capsys, longest: int, generation: dict, limit: int | None, said: str
):
    tuned = make_model_folder(folder / "tuned")
    ModelManifest(kind="model", dataset={"longest_answer_tokens": longest}).write(tuned)
    file = tuned / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **generation}))
    make_table(folder, 1)
    budgets = []
    watch_rows(monkeypatch, lambda prompt: budgets.append((prompt.budget, len(prompt.input_ids))))
    predict(folder, tuned, max_new_tokens=None)
    budget, prompt = budgets.pop()
    assert budget == (60 - prompt if limit is None else limit)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_rows_and_one_writes(folder: Path, model: Path, monkeypatch, processes: int):
    make_table(folder, 20)
    (folder / "clips/7.wav").unlink()
    predict(folder, model, output=folder / "whole.csv")
    import threading

    asked: dict[int, int] = {}
    rows = work_module.Work._rows

    def counting(self, *rest):
        for item in rows(self, *rest):
            asked[self.peer.rank] = asked.get(self.peer.rank, 0) + 1
            yield item

    monkeypatch.setattr(work_module.Work, "_rows", counting)
    settings = InferenceSettings(
        input=folder / "in.csv",
        output=folder / "out.csv",
        model_name=str(model),
        batch_size=3,
        max_new_tokens=4,
        num_workers=1,
    )
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            run_module._inference(settings, Peer(rank, processes, local_world_size=processes), None)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in reversed(range(processes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and sorted(asked) == list(range(processes)) and sum(asked.values()) == 20
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def test_rows_that_do_not_fit_together_are_answered_fewer_at_a_time(folder: Path, model: Path, monkeypatch):
    make_table(folder, 12)
    whole = predict(folder, model, batch_size=4)
    sizes = []
    read = Generator.read_prompts

    def small(self, prompts, cache):
        sizes.append(len(cache.lengths))
        if len(cache.lengths) > 2 or any(p.key == 2 for p in prompts):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(self, prompts, cache)

    monkeypatch.setattr(Generator, "read_prompts", small)
    rows = predict(folder, model, batch_size=4)
    assert max(sizes) == 4 and 1 in sizes
    assert [row["prediction"] for n, row in enumerate(rows) if n != 2] == [
        row["prediction"] for n, row in enumerate(whole) if n != 2
    ]
    assert "not enough memory" in rows[2]["error"] and not rows[2]["prediction"]


def test_rows_stream(folder: Path, model: Path, monkeypatch, interrupted_after):
    """Predictions are on disk while later clips aren't even looked at."""
    make_table(folder, 4)
    source = folder / "in.csv"
    lines = source.read_text().splitlines()
    many = [f"id-{n},clips/{n % 4}.wav,t,x" for n in range(900)]
    source.write_text("\n".join([lines[0], *many]) + "\n")
    loaded: list[int] = []
    read = RowReader.read
    monkeypatch.setattr(RowReader, "read", lambda self, row, key: loaded.append(key) or read(self, row, key))
    with interrupted_after(3):
        predict(folder, model, batch_size=8)
    done = (folder / "out.csv.partial/rank-0.jsonl").read_text().count('"rows"')
    assert done == 3 and len(loaded) < 80


def test_the_output_may_not_be_the_input(folder: Path, model: Path):
    source = make_table(folder, 1)
    before = source.read_bytes()
    with pytest.raises(UserError, match="the input itself"):
        predict(folder, model, output=source)
    assert source.read_bytes() == before
    with pytest.raises(UserError, match="a folder"):
        predict(folder, model, output=folder)


def test_an_earlier_output_is_kept_where_it_differs(folder: Path, model: Path, capsys):
    make_table(folder, 2)
    (folder / "out.csv").write_text("hours of work")
    (folder / "out.csv.1").write_text("more of it")
    predict(folder, model)
    assert (folder / "out.csv.2").read_text() == "hours of work" and (folder / "out.csv.1").exists()
    assert "is kept as" in capsys.readouterr().err
    predict(folder, model)
    assert not (folder / "out.csv.3").exists(), "the same again is no loss"
    predict(folder, model, max_new_tokens=3, overwrite=True)
    assert not (folder / "out.csv.3").exists()


def test_spreadsheets_come_back_as_they_came(folder: Path, model: Path):
    write_wav(folder / "a.wav", tone(0.3))
    (folder / "in.csv").write_bytes('\ufeffaudio,note\r\na.wav,"好\r\n，x"\r\n'.encode())
    predict(folder, model)
    data = (folder / "out.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf") and "好\r\n，x".encode() in data
    (folder / "in.csv").write_bytes("audio,note\na.wav,好\n".encode("gbk"))
    inference(
        InferenceSettings(
            input=folder / "in.csv",
            output=folder / "g.csv",
            model_name=str(model),
            encoding="gbk",
            max_new_tokens=2,
        )
    )
    assert "好" in (folder / "g.csv").read_bytes().decode("gb18030")


def test_jsonl_and_parquet(folder: Path, model: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_wav(folder / "a.wav", tone(0.3))
    records = [
        {"audio": "a.wav", "n": 1, "user_prompt": None},
        {"audio": "b.wav", "n": 2, "user_prompt": "x"},
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.Table.from_pylist(records), folder / "in.parquet")
    for name in ("in.jsonl", "in.parquet"):
        rows = predict(folder, model, input=folder / name)
        assert [row["n"] for row in rows] == ["1", "2"] and rows[0]["prediction"] and rows[1]["error"]


def test_base_dir_bounds_the_paths(folder: Path, model: Path):
    write_wav(folder / "secret.wav", tone(0.3))
    write_wav(folder / "data/a.wav", tone(0.3))
    write_csv(folder / "in.csv", ["audio"], [("a.wav",), ("../secret.wav",)])
    rows = predict(folder, model, base_dir=folder / "data")
    assert rows[0]["prediction"] and "leads out of --base-dir" in rows[1]["error"]


def test_the_first_answer_is_shown_with_its_prompts(folder: Path, model: Path, capsys):
    make_table(folder, 3)
    predict(folder, model, user_prompt="which?")
    assert "user 'which?' ->" in capsys.readouterr().err


def test_adapter_merged_and_checkpoint_answer_alike(folder: Path, model: Path):
    """What is trained is what answers, in whatever form it is kept."""
    from peft import LoraConfig, inject_adapter_in_model

    from mdl_toolkit.model_folders.export import export_merged, export_trained
    from mdl_toolkit.model_folders.load import load_model
    from mdl_toolkit.model_folders.manifest import BaseRecord
    from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
    from mdl_toolkit.model_folders.trained import TrainedWeights

    tuned = load_model(model, dtype=torch.float32)
    targets = ["audio_encoder.blocks.0.attn.qkv", "audio_projector.net.0", "layers.1.mlp.up_proj"]
    config = LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    inject_adapter_in_model(config, tuned)
    trained = [(name, tensor) for name, tensor in tuned.named_parameters() if ".lora_" in name]
    adapter = TrainedWeights.collect(trained, config)
    record: Any = {"base": BaseRecord.of("base", model)}
    export_trained(folder / "adapter", model, adapter, ModelManifest(kind="adapter", **record))
    export_merged(model, adapter, folder / "merged", ModelManifest(kind="model", **record))
    files = WeightFiles(folder / "merged")
    changed = [(f"{name}.weight", files.tensor(f"{name}.weight")) for name in adapter.lora]
    overlay = TrainedWeights.collect(changed, {})
    export_trained(folder / "checkpoint-3", model, overlay, ModelManifest(kind="overlay", **record))
    make_table(folder, 5)
    answers = {
        kind: [row["prediction"] for row in predict(folder, folder / kind, overwrite=True, max_new_tokens=6)]
        for kind in ("adapter", "merged", "checkpoint-3")
    }
    assert answers["adapter"] == answers["merged"] == answers["checkpoint-3"]
    chosen = {
        kind: [
            (row["prediction"], round(float(row["probability"]), 4))
            for row in predict(folder, folder / kind, overwrite=True, choices="a cat,a dog,birds")
        ]
        for kind in answers
    }
    assert chosen["adapter"] == chosen["merged"] == chosen["checkpoint-3"]
    assert answers["merged"] != [row["prediction"] for row in predict(folder, model, max_new_tokens=6)]


@pytest.mark.parametrize("options", [{"quantization": "8bit"}, {"quantization": "4bit"}, {"bf16": True}])
def test_smaller_weights_answer_too(folder: Path, model: Path, options: dict):
    make_table(folder, 3)
    rows = predict(folder, model, **options)
    assert all(row["prediction"] and "error" not in row for row in rows)


def test_beams_and_sampling_by_option(folder: Path, model: Path):
    make_table(folder, 4)
    plain = predict(folder, model)
    beams = predict(folder, model, num_beams=3, overwrite=True)
    sampled = predict(folder, model, do_sample=True, temperature=2.0, top_k=50, top_p=0.95, overwrite=True)
    again = predict(folder, model, do_sample=True, temperature=2.0, top_k=50, top_p=0.95, batch_size=1)
    assert all(row["prediction"] for row in beams)
    assert [row["prediction"] for row in sampled] == [row["prediction"] for row in again]
    assert [row["prediction"] for row in sampled] != [row["prediction"] for row in plain]


def test_no_row_ends_a_run(folder: Path, model: Path, monkeypatch):
    """An error that nobody foresaw, in one row, is that row's."""
    make_table(folder, 3)
    read = RowReader.read

    def surprising(self, row, key):
        if key == 1:
            raise RuntimeError("something\nnew")
        return read(self, row, key)

    monkeypatch.setattr(RowReader, "read", surprising)
    rows = predict(folder, model)
    assert rows[1]["error"] == "RuntimeError: something new"
    assert rows[0]["prediction"] and rows[2]["prediction"]


def test_silent_clips_are_answered_and_named(folder: Path, model: Path, capsys):
    source = make_table(folder, 8)
    for place in (1, 4):
        write_wav(folder / f"clips/{place}.wav", np.zeros(8000, dtype=np.float32))
    assert all(row["prediction"] is not None and not row.get("error") for row in predict(folder, model))
    said = [line for line in capsys.readouterr().err.splitlines() if "without any sound" in line]
    assert len(said) == 1 and said[0].startswith("warning: 2 clips without any sound")
    with open(source, encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    for place in (1, 4):
        number = next(i for i, line in enumerate(lines, start=1) if f"clips/{place}.wav" in line)
        assert f"line {number} (clips/{place}.wav)" in said[0]


def test_an_option_without_effect_is_refused(folder: Path, model: Path):
    make_table(folder, 1)
    settings = InferenceSettings(
        input=folder / "in.csv", output=folder / "o.csv", model_name=str(model), audio_storage="flac"
    )
    assert "inference keeps none: leave it out" in settings.problems()[0]
