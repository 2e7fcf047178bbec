"""``report``: from folders of runs, evaluations and files of predictions to the data of the page."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit import cli
from mdl_toolkit.errors import UserError
from mdl_toolkit.model_folders.manifest import BaseRecord, ModelManifest
from mdl_toolkit.report.runs import short_names
from mdl_toolkit.report.write import write_report
from mdl_toolkit.scoring.api import score, write_evaluation
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import as_dict
from support.data.clips import tone, write_wav

LABELS = ("bell", "drum")
#: Of the extra ``evaluate``.
LIBRARIES = {"jiwer", "sklearn", "sacrebleu", "rouge_score", "whisper_normalizer", "opencc", "cn2an"}


def make_rows(count: int, wrong: range = range(0), **more: Any) -> dict[str, list[Any]]:
    truth = [LABELS[row % 2] for row in range(count)]
    return {
        "audio": [f"clips/{row}.wav" for row in range(count)],
        **{name: [value] * count for name, value in more.items()},
        "prediction": [LABELS[1 - row % 2] if row in wrong else truth[row] for row in range(count)],
        "reference": truth,
    }


def evaluation(folder: Path, columns: dict[str, list[Any]], task: str = "classification") -> Path:
    scored = score(task, columns["reference"], columns["prediction"])
    write_evaluation(folder, scored, columns, source="/home/somebody/predictions.csv", slice_by=[])
    return folder


def training(folder: Path, steps: int = 3, **options: Any) -> Path:
    folder.mkdir(parents=True)
    settings = TrainSettings(
        train_dataset=["/home/somebody/data/train.csv"],
        output=folder,
        model_name="/home/somebody/base",
        **options,
    )
    (folder / "final").mkdir()
    ModelManifest(
        kind="model",
        base=BaseRecord(name="/home/somebody/base", fingerprint="0123456789abcdef"),
        dataset={"fingerprint": "fedcba9876543210", "source": {"name": "train.csv"}, "rows": 2700},
        options=as_dict(settings),
        training={"step": steps, "epoch": 1.0, "trained_parameters": 12345},
    ).write(folder / "final")
    lines: list[dict[str, Any]] = [
        {"step": k, "loss": 1.0 / k, "learning_rate": 1e-3, "grad_norm": 1.0, "clips": 8, "seconds": 30.0,
         "padding_share": 0.0, "memory": 2**30} for k in range(1, steps + 1)
    ]  # fmt: skip
    lines += [{"step": steps, "eval_loss": 0.25, "eval_rows": 20, "eval_seconds": 2.0}]
    lines += [{"train_runtime": 90.0, "train_samples_per_second": 0.8, "peak_memory_training": 2**31}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    return found


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with 20 rows of which 3 are wrong, and clips for the first six."""
    monkeypatch.chdir(tmp_path)
    for row in range(6):
        write_wav(tmp_path / "clips" / f"{row}.wav", tone(0.3, hertz=300.0 * (row + 1)))
    made = training(Path("output"), lora_rank=16, lr=0.003)
    evaluation(made / "evaluation" / "main", make_rows(20, range(3), speaker="007"))
    return made


def test_a_run_s_page_says_what_was_trained_and_how_good_it_is(run, capsys):
    assert cli.run(["report", "output", "--output", "report.html"]) == 0
    data = data_of(Path("report.html"))
    (made,) = data["runs"]
    assert made["name"] == "output"
    assert made["headline"].startswith("accuracy 85.0 % (")
    assert made["headline"].endswith("on 20 rows; base, LoRA 16, 2,700 clips, 1.5 min")
    facts = dict(made["facts"])
    assert facts["Base model"] == "base, fingerprint 0123456789ab"
    assert facts["Data"] == "train.csv, 2,700 clips, fingerprint fedcba987654"
    assert facts["Options"] == "--lora-rank 16 --lr 0.003"
    assert facts["Peak memory"] == "2.00 GiB"
    assert facts["Versions"].startswith("mdl-toolkit ")
    assert made["series"]["clips_per_second"] == [[k, pytest.approx(8 / 30, abs=1e-5)] for k in (1, 2, 3)]
    assert made["evaluations"] == {"eval_loss": [[3, 0.25]]}
    assert data["lower_is_better"] == ["eval_loss"]
    printed = capsys.readouterr().err
    assert f"output: {made['headline']}" in printed
    assert "14 of 20 recordings can't be played; the first: clips/" in printed


def test_a_set_has_its_scores_rows_and_recordings(run):
    write_report([run], "r.html")
    data = data_of(Path("r.html"))
    (made,) = data["runs"][0]["sets"]
    assert (made["name"], made["task"], made["main_score"], made["rows"]) == (
        "main",
        "classification",
        "accuracy",
        20,
    )
    assert made["scores"]["accuracy"]["low"] < made["scores"]["accuracy"]["value"] == 0.85
    assert made["confusion"]["labels"][:2] == ["bell", "drum"]
    assert made["source"] == "predictions.csv"
    columns = made["table"]["columns"]
    assert columns == [
        "audio",
        "speaker",
        "prediction",
        "reference",
        "row",
        "score",
        "correct",
        "wanted",
        "given",
    ]
    first = dict(zip(columns, made["table"]["rows"][0], strict=True))
    assert first == {
        "audio": "clips/0.wav", "speaker": "007", "prediction": "drum", "reference": "bell", "row": 1,
        "score": 0, "correct": False, "wanted": "bell", "given": "drum",
    }  # fmt: skip
    assert (made["reference"], made["prediction"]) == ("reference", "prediction")
    assert made["input_columns"] == ["audio", "speaker", "prediction"]
    clips = [data["audio"][place] for place in made["audio"]]
    assert [clip["path"] for clip in clips] == [f"clips/{row}.wav" for row in range(20)]
    assert [bool(clip["src"]) for clip in clips] == [True] * 6 + [False] * 14
    assert made["audio_note"] == "14 recordings can't be played; the first: clips/6.wav: no such file"
    # The wrong ones were taken first.
    assert [clip["path"] for clip in data["audio"][:3]] == ["clips/0.wav", "clips/1.wav", "clips/2.wav"]


def test_nothing_of_this_machine_s_folders_is_in_the_page(run, tmp_path):
    write_report([run.resolve()], "r.html", base_dir=tmp_path)
    page = Path("r.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in page
    assert "/home/somebody" not in page


def test_only_so_many_recordings_are_taken_the_worst_and_the_least_certain(run):
    sure = {**make_rows(20, range(3)), "probability": [0.9] * 19 + [0.1]}
    evaluation(run / "evaluation" / "main", sure)
    write_report([run], "r.html", max_clips=4)
    data = data_of(Path("r.html"))
    assert [clip["path"] for clip in data["audio"]] == [f"clips/{row}.wav" for row in (0, 19, 1, 2)]
    (made,) = data["runs"][0]["sets"]
    assert made["audio"] == [0, 2, 3, *[None] * 16, 1]
    assert made["audio_note"].startswith(
        "4 of 20 rows have their recording here: the worst and the least certain"
    )
    assert "probability" not in made["input_columns"]


def test_recordings_that_are_too_many_for_the_page_lie_beside_it(run):
    written = write_report([run], "r.html", embed_audio=0)
    assert written.folder == Path("r-audio")
    data = data_of(Path("r.html"))
    names = {Path(clip[kind]).name for clip in data["audio"] if clip["src"] for kind in ("src", "picture")}
    assert names == {path.name for path in Path("r-audio").iterdir()}
    assert len(names) == 12
    write_report([run], "r.html")
    assert not Path("r-audio").exists()


def test_a_folder_that_was_said_wins_over_the_others(run, tmp_path):
    write_wav(tmp_path / "elsewhere" / "clips" / "0.wav", tone(0.9))
    write_report([run], "r.html", base_dir=Path("elsewhere"))
    there = {clip["path"]: clip["seconds"] for clip in data_of(Path("r.html"))["audio"] if clip["src"]}
    assert there == {"clips/0.wav": 0.9}


def test_segments_are_cut_however_their_times_are_written(run):
    columns = {**make_rows(3), "start": ["0.1", "0,1", ""], "end": ["0.2", "0,25", "0.3"]}
    evaluation(Path("cut"), columns)
    page = write_report(["cut"], "r.html").data
    seconds = {clip.path: clip.seconds for clip in page.audio}
    assert seconds == {"clips/0.wav": 0.1, "clips/1.wav": 0.15, "clips/2.wav": 0.3}


def test_the_folder_that_the_run_was_given_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "recordings" / "clips" / "0.wav", tone(0.3))
    made = training(Path("work/output"), base_dir=tmp_path / "recordings")
    evaluation(made / "evaluation" / "main", make_rows(2))
    write_report([made], "r.html")
    data = data_of(Path("r.html"))
    assert [bool(clip["src"]) for clip in data["audio"]] == [True, False]
    assert str(tmp_path) not in Path("r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("base_dir", [None, Path("recordings")])
def test_a_report_made_elsewhere_begins_where_the_run_was_started(tmp_path, monkeypatch, base_dir):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_wav((base_dir or Path()) / "clips" / "0.wav", tone(0.3))
    made = training(Path("work/runs/output"), base_dir=base_dir)
    evaluation(made / "evaluation" / "main", make_rows(2))
    monkeypatch.chdir(tmp_path)
    write_report([Path("here") / made], "r.html")
    assert [bool(clip["src"]) for clip in data_of(Path("r.html"))["audio"]] == [True, False]
    assert str(tmp_path) not in Path("r.html").read_text(encoding="utf-8")


def test_the_folder_that_a_set_was_read_from_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "dev" / "clips" / "0.wav", tone(0.3))
    made = training(Path("work/output"), base_dir=tmp_path / "train")
    folder = evaluation(made / "evaluation" / "main", make_rows(2))
    summary = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps({**summary, "base_dir": str(tmp_path / "dev")}))
    write_report([made], "r.html")
    assert [bool(clip["src"]) for clip in data_of(Path("r.html"))["audio"]] == [True, False]
    assert str(tmp_path) not in Path("r.html").read_text(encoding="utf-8")


def test_the_best_model_is_a_fact(tmp_path):
    made = training(tmp_path / "output")
    (made / "best").mkdir()
    best = {"step": 2, "metric": "eval_wer", "value": 0.125}
    ModelManifest(kind="adapter", training={"step": 2, "best": best}).write(made / "best")
    facts = dict(write_report([made], tmp_path / "r.html").data.runs[0].facts)
    assert facts["Best model"] == "best/, of step 2: eval_wer 0.125"


def test_a_run_without_scored_answers_has_its_curves(tmp_path):
    page = write_report([training(tmp_path / "output", steps=1, method="full")], tmp_path / "r.html").data
    assert (
        page.runs[0].headline == "evaluation loss 0.25 on 20 rows; base, full fine-tuning, 2,700 clips, 32 s"
    )
    assert page.runs[0].sets == []


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2.5, "clips": 8, "seconds": 1.0}\n'
    )
    page = write_report([tmp_path / "output"], tmp_path / "r.html").data
    assert page.runs[0].headline == "training loss 2.5 after 1 step"
    assert dict(page.runs[0].facts)["Steps"] == "1; the run hasn't ended"


def test_sets_are_in_order_and_the_first_is_spoken_of(run):
    evaluation(run / "evaluation" / "old", make_rows(20, range(10)))
    evaluation(run / "evaluation" / "extra", make_rows(40, range(10)))
    page = write_report([run], "r.html").data
    assert [one.name for one in page.runs[0].sets] == ["main", "extra", "old"]
    assert " on 20 rows of main; " in page.runs[0].headline


def test_an_evaluation_and_a_file_are_shown_alone(run):
    page = write_report([run / "evaluation" / "main"], "r.html").data
    assert (page.runs[0].name, page.runs[0].sets[0].name) == ("main", "main")
    with open("predictions.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        columns = make_rows(20, range(5))
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    assert cli.run(["report", "predictions.csv", "--task", "classification"]) == 0
    (made,) = data_of(Path("report.html"))["runs"]
    assert made["name"] == "predictions"
    assert made["headline"].startswith("accuracy 75.0 % (")
    assert made["sets"][0]["task"] == "classification" and made["sets"][0]["audio"][5] is not None


def test_runs_are_compared_on_the_rows_that_they_share(run):
    other = training(Path("other"), lora_rank=64)
    better = make_rows(24)
    backwards = {name: values[::-1] for name, values in better.items()}
    evaluation(other / "evaluation" / "main", backwards)
    data = data_of(write_report([run, other], "r.html").page)
    first, second = (made["sets"][0] for made in data["runs"])
    numbers = dict(zip([row[0] for row in second["table"]["rows"]], second["keys"], strict=True))
    assert first["keys"] == list(range(20))
    assert [numbers[f"clips/{row}.wav"] for row in range(20)] == list(range(20))
    assert len({*second["keys"]}) == 24 and min(numbers[f"clips/{row}.wav"] for row in range(20, 24)) >= 20
    (compared,) = [one for one in data["comparisons"] if one["score"] == "accuracy"]
    assert (compared["run"], compared["other"], compared["rows"]) == ("other", "output", 20)
    assert (compared["value"], compared["other_value"]) == (1.0, 0.85)
    assert compared["difference"] == pytest.approx(0.15)
    assert compared["low"] < 0.15 < compared["high"] and 0 < compared["p"] < 0.2
    assert compared["better"] is (True if compared["low"] > 0 else None)
    # A recording that both have is in the page once.
    assert len(data["audio"]) == 24


def test_what_can_t_be_compared_is_said_and_shown_all_the_same(run):
    other = training(Path("other"))
    rows = make_rows(20)
    evaluation(other / "evaluation" / "main", {**rows, "audio": [f"others/x{row}.wav" for row in range(20)]})
    page = write_report([run, other], "r.html").data
    assert page.comparisons == []
    assert page.notes[0].startswith("main: other isn't compared with output: no row of ")
    assert page.notes[0].endswith(" with --match-by (options of mdl-toolkit evaluate)")
    assert all(one.sets for one in page.runs)


def test_files_that_are_compared_are_named_as_they_were_given(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    header = "audio,reference,prediction\n"
    Path("one.csv").write_text(header + "".join(f"{row}.wav,a,a\n" for row in range(4)))
    Path("two.csv").write_text(header + "".join(f"{row}.wav,a,b\n" for row in range(3)))
    Path("three.csv").write_text(header + "x.wav,a,a\n")
    files = [Path("one.csv"), Path("two.csv"), Path("three.csv")]
    page = write_report(files, "r.html", task="exact").data
    assert "1 row of one.csv not in two.csv, not compared: line 5" in caplog.messages
    assert "no row of one.csv is in three.csv by audio" in page.notes[0]


def test_another_task_isn_t_compared(run):
    other = training(Path("other"))
    evaluation(other / "evaluation" / "main", make_rows(20), task="exact")
    page = write_report([run, other], "r.html").data
    assert page.notes == [
        "main: other isn't compared with output: scored by other tasks, classification and exact"
    ]


def test_names_of_runs_are_as_short_as_they_can_be(tmp_path):
    paths = [
        Path("a/run"),
        Path("b/run"),
        Path("c/other"),
        Path("b/run"),
        tmp_path / "x" / "evaluation" / "test",
    ]
    assert short_names(paths) == ["a/run", "b/run", "other", "b/run (2)", "test"]
    assert short_names([Path("one/evaluation/test"), Path("two/evaluation/test")]) == [
        "one/evaluation/test",
        "two/evaluation/test",
    ]


def broken(run: Path, name: str, text: str) -> None:
    (run / "evaluation" / "main" / name).write_text(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUN is missing"),
        (["nowhere"], "nowhere: no such run, evaluation or file of predictions"),
        (
            ["clips"],
            "clips: not the folder of a run or an evaluation (no metrics.jsonl and no scores.json in it)",
        ),
        (["output/final"], "output/final: a model of a run; name the run's folder, output"),
        (["output/metrics.jsonl"], "output/metrics.jsonl: name the run's folder, output"),
        (["empty"], "empty: nothing to show yet: no step has been made, and no answers were scored"),
        (["output", "--output", "clips"], "--output clips: a folder; name the page to write"),
        (["output.csv", "--output", "output.csv"], "--output output.csv: a page; its name ends in .html"),
        (["output", "--output", "output/metrics.jsonl/r.html"], "can't be written"),
        (["output", "--base-dir", "nowhere"], "--base-dir nowhere: no such folder"),
        (["broken-json"], "broken-json/evaluation/main/scores.json: not JSON ("),
        (["broken-rows"], "broken-rows/evaluation/main/rows.csv line 2: 1 cells where the header has 2"),
        (["no-rows"], "no-rows/evaluation/main/rows.csv: "),
        (["clips/0.wav"], "clips/0.wav"),
    ],
)
def test_what_is_wrong_is_a_line(run, words, message, capsys):
    Path("empty").mkdir()
    Path("empty/metrics.jsonl").write_text("")
    for name, scores, rows in (
        ("broken-json", "{", "row,score\n1,1\n"),
        ("broken-rows", '{"task": "exact", "scores": {}}', "row,score\n1\n"),
        ("no-rows", '{"task": "exact", "scores": {}}', None),
    ):
        folder = Path(name, "evaluation", "main")
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(scores)
        if rows is not None:
            (folder / "rows.csv").write_text(rows)
    before = {path for path in Path().rglob("*") if "r.html" in path.name or "report" in path.name}
    code = cli.run(["report", *words])
    printed = capsys.readouterr().err.strip()
    assert message in printed, printed
    assert code in (1, 2) and (code == 2 or "can't be written" in message)
    assert len(printed.splitlines()) == 1, printed
    assert {path for path in Path().rglob("*") if "r.html" in path.name or "report" in path.name} == before


def test_where_the_page_can_t_be_written_no_recording_is_left(run):
    Path("file").write_text("x")
    assert cli.run(["report", "output", "--output", "file/r.html", "--embed-audio", "0"]) != 0
    assert Path("file").read_text() == "x"


def test_an_older_page_stays_where_something_is_wrong(run):
    write_report([run], "r.html", embed_audio=0)
    before = Path("r.html").read_bytes()
    broken(run, "scores.json", "{")
    with pytest.raises(UserError, match=r"scores\.json"):
        write_report([run], "r.html")
    assert Path("r.html").read_bytes() == before
    assert len(list(Path("r-audio").iterdir())) == 12


def test_recordings_of_other_people_s_tables_are_found(run):
    columns = make_rows(4)
    columns = {"Id": [7, 8, 9, 10], "path": columns.pop("audio"), **columns}
    evaluation(Path("theirs"), columns, task="exact")
    page = write_report(["theirs"], "r.html").data
    assert [clip.path for clip in page.audio] == [f"clips/{row}.wav" for row in range(4)]
    assert page.runs[0].sets[0].input_columns == ["Id", "path", "prediction"]


def test_without_the_evaluate_extra_a_run_is_shown_all_the_same(run):
    other = training(Path("other"))
    evaluation(other / "evaluation" / "main", make_rows(20))
    code = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def without(name, path=None, target=None):
    return None if name.partition(".")[0] in {LIBRARIES!r} else find(name, path, target)
PathFinder.find_spec = without
from mdl_toolkit import cli
assert cli.run(["report", "output", "other"]) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "other isn't compared with output: scores of classification need the evaluate extra" in done.stderr
    data = data_of(Path("report.html"))
    assert all(made["series"]["loss"] and made["sets"][0]["scores"] for made in data["runs"])
    assert data["comparisons"] == []


def test_it_loads_no_torch(run):
    code = (
        "import sys; from mdl_toolkit import cli; assert cli.run(['report', 'output']) == 0; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
