"""What no run has written is never removed: not by --overwrite, not by a new model, not by pruning."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.errors import MdlError, UserError
from mdl_toolkit.training import final as final_module
from mdl_toolkit.training.checkpoints.output import clear_run, foreign_file_in
from mdl_toolkit.training.checkpoints.storage import prune
from mdl_toolkit.training.run import train
from support.training.runs import run_settings, steps_of


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, final/, metrics and TensorBoard's files."""
    output = tmp_path_factory.mktemp("finished") / "out"
    train(run_settings(shop.model, shop.data, output, max_steps=4, save_steps=2, report_to=["tensorboard"]))
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def _thesis(output: Path) -> Path:
    shutil.rmtree(output / "final")
    (output / "final").mkdir()
    (output / "final" / "thesis.tex").write_text("years of work")
    return output / "final"


def _in_final(output: Path) -> Path:
    (output / "final" / "results").mkdir()
    (output / "final" / "results" / "predictions.csv").write_text("mine")
    return output / "final" / "results" / "predictions.csv"


def _in_checkpoint(output: Path) -> Path:
    (output / "checkpoint-2" / "notes.txt").write_text("mine")
    return output / "checkpoint-2" / "notes.txt"


def _of_another_tool(output: Path) -> Path:
    (output / "checkpoint-500").mkdir()
    (output / "checkpoint-500" / "trainer_state.json").write_text("{}")
    return output / "checkpoint-500"


def _a_link(output: Path) -> Path:
    (output / "final").rename(output.parent / "elsewhere")
    (output / "final").symlink_to(output.parent / "elsewhere")
    return output / "final"


def _other_metrics(output: Path) -> Path:
    (output / "metrics.jsonl").write_text('{"accuracy": 0.9}\n')
    return output / "metrics.jsonl"


_KINDS = [_thesis, _in_final, _in_checkpoint, _of_another_tool, _a_link, _other_metrics]


@pytest.mark.parametrize("put", _KINDS, ids=lambda put: put.__name__.strip("_"))
def test_overwrite_refuses_what_no_run_wrote_and_removes_nothing(
    shop: Any, output: Path, put: Callable[[Path], Path]
) -> None:
    stranger = put(output)
    before = _tree(output)
    with pytest.raises(UserError, match="was not written by a run: move it elsewhere") as refused:
        train(run_settings(shop.model, shop.data, output, max_steps=2, overwrite=True))
    assert str(stranger) in str(refused.value)
    assert _tree(output) == before


def test_overwrite_takes_all_of_a_run_and_leaves_all_else(shop: Any, output: Path) -> None:
    (output / "notes.txt").write_text("mine")
    (output / "runs" / "another").mkdir()
    (output / "runs" / "another" / "events.out.tfevents.1").write_text("of another run")
    (output / "runs" / "out" / "plot.png").write_text("mine")
    (output / "final" / "__pycache__").mkdir()
    (output / "final" / "__pycache__" / "modeling.pyc").write_text("made by Python")
    (output / ".partial-thesis").write_text("mine too")
    (output / ".partial-checkpoint-9-77").mkdir()
    train(run_settings(shop.model, shop.data, output, max_steps=2, overwrite=True))
    assert sorted(path.name for path in output.iterdir()) == [
        ".mdl_run.json", ".partial-thesis", "checkpoint-2", "final", "metrics.jsonl", "notes.txt",
        "report.html", "runs",
    ]  # fmt: skip
    assert set(_tree(output / "runs")) == {"another/events.out.tfevents.1", "out/plot.png"}
    assert [step["step"] for step in steps_of(output)] == [1, 2]


def test_a_damaged_run_is_a_run(output: Path) -> None:
    (output / "checkpoint-2" / "complete.json").write_text("{")
    (output / "checkpoint-4" / "complete.json").unlink()
    (output / "checkpoint-4" / "optimizer.safetensors").write_bytes(b"cut")
    for cut in ("", "{", '{"step": 1, "lo'):
        (output / "metrics.jsonl").write_text(cut)
        assert foreign_file_in(output / "metrics.jsonl") is None
    clear_run(output)
    assert [path.name for path in output.iterdir()] == [".mdl_run.json"], "the next run replaces its record"


def test_a_foreign_final_alone_is_not_called_a_run(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "out" / "final").mkdir(parents=True)
    (tmp_path / "out" / "final" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"final is in the way and was not written by a run"):
        train(run_settings(shop.model, shop.data, tmp_path / "out", max_steps=1))
    with pytest.raises(UserError, match=r"final is in the way and was not written by a run"):
        train(run_settings(shop.model, shop.data, tmp_path / "out", resume_from_checkpoint="true"))


def test_a_final_that_comes_meanwhile_is_not_replaced(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, write = tmp_path / "out", final_module.write_final

    def late(*arguments: Any) -> bool:
        (output / "final").mkdir(exist_ok=True)
        (output / "final" / "thesis.tex").write_text("years of work")
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("mdl_toolkit.training.run.write_final", late)
        with pytest.raises(
            MdlError, match=r"could not be written.*in the way.*--resume-from-checkpoint true"
        ):
            train(run_settings(shop.model, shop.data, output, max_steps=1))
    assert (output / "final" / "thesis.tex").read_text() == "years of work"
    shutil.rmtree(output / "final")
    train(run_settings(shop.model, shop.data, output, max_steps=1, resume_from_checkpoint="true"))
    assert (output / "final" / "model.safetensors").is_file()


def test_a_checkpoint_in_the_way_of_a_new_one_ends_the_run_with_a_remedy(shop: Any, output: Path) -> None:
    shutil.rmtree(output / "final")
    (output / "checkpoint-6").mkdir()
    (output / "checkpoint-6" / "notes.txt").write_text("mine")
    settings = run_settings(
        shop.model, shop.data, output, max_steps=6, save_steps=2, resume_from_checkpoint="true"
    )
    with pytest.raises(MdlError, match=r"checkpoint-6 could not be saved.*was not written by a run"):
        train(settings)
    assert (output / "checkpoint-6" / "notes.txt").read_text() == "mine"


def test_pruning_passes_over_what_holds_something_of_others(output: Path) -> None:
    _in_checkpoint(output)
    (output / "checkpoint-1").mkdir()
    (output / "checkpoint-1" / "weights.bin").write_text("of another tool")
    newest = Path(shutil.copytree(output / "checkpoint-4", output / "checkpoint-9"))
    prune(output, 1, newest)
    assert sorted(path.name for path in output.glob("checkpoint-*")) == [
        "checkpoint-1", "checkpoint-2", "checkpoint-9",
    ]  # fmt: skip


def test_the_lock_of_another_tool_stays(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text("of another tool")
    train(run_settings(shop.model, shop.data, tmp_path / "out", max_steps=1))
    assert (tmp_path / "out" / ".lock").read_text() == "of another tool"
    train(run_settings(shop.model, shop.data, tmp_path / "new", max_steps=1))
    assert not (tmp_path / "new" / ".lock").exists()


def test_all_of_a_finished_run_is_its_own(finished: Path) -> None:
    for path in finished.iterdir():
        if path.name not in ("runs", "cache"):
            assert foreign_file_in(path) is None, path


@pytest.fixture
def evaluated(output: Path) -> Path:
    """An evaluation that the run has written."""
    folder = output / "evaluation" / "main"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text('{"task": "exact", "step": 4}')
    (folder / "rows.csv").write_text("row\n")
    return folder


def test_overwrite_takes_the_runs_evaluations_and_leaves_others(
    shop: Any, output: Path, evaluated: Path
) -> None:
    (evaluated / ".partial-rows.csv-77").write_text("cut")
    shutil.copytree(evaluated, output / "evaluation" / "test")
    (output / "evaluation" / "test" / "scores.json").write_text('{"task": "exact"}')
    assert foreign_file_in(evaluated) is None
    train(run_settings(shop.model, shop.data, output, max_steps=2, overwrite=True))
    assert set(_tree(output / "evaluation")) == {"test/scores.json", "test/rows.csv"}
    shutil.rmtree(output / "evaluation" / "test")
    shutil.copytree(output / "final", output / "evaluation" / "final")
    train(run_settings(shop.model, shop.data, output, max_steps=2, overwrite=True))
    assert (output / "evaluation" / "final").is_dir(), "no evaluation, so nobody's business here"


def _evaluation_by_hand(evaluated: Path) -> Path:
    (evaluated / "scores.json").write_text('{"task": "exact"}')
    return evaluated


def _note_beside_scores(evaluated: Path) -> Path:
    (evaluated / "notes.txt").write_text("mine")
    return evaluated / "notes.txt"


def _file_for_a_folder(evaluated: Path) -> Path:
    shutil.rmtree(evaluated)
    evaluated.write_text("mine")
    return evaluated


@pytest.mark.parametrize("put", [_evaluation_by_hand, _note_beside_scores, _file_for_a_folder])
def test_an_evaluation_of_others_is_not_replaced(
    shop: Any, output: Path, evaluated: Path, put: Callable[[Path], Path]
) -> None:
    stranger = put(evaluated)
    before = _tree(output)
    evaluates = {"eval_dataset": str(shop.held_out), "eval_generate": 2}
    with pytest.raises(UserError, match="was not written by a run") as refused:
        train(run_settings(shop.model, shop.data, output, max_steps=2, overwrite=True, **evaluates))
    assert str(stranger) in str(refused.value) and _tree(output) == before
