"""The demonstration's pieces, and the whole of it in miniature through the real commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.demo import run as demo_run
from mdl_toolkit.demo.outcome import Answered, Outcome, show
from mdl_toolkit.errors import MdlError, UserError
from mdl_toolkit.training.checkpoints.storage import newest_complete
from support.processes import terminal

SMALL = demo_run.Size(train_clips=24, test_clips=12, epochs=10, rank=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the miniature ran once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        made = tmp_path_factory.mktemp("demo") / "small demo"
        yield made, demo_run.perform(made, 0, SMALL)


def test_a_miniature_goes_through_all_six_commands(folder):
    made, outcome = folder
    assert [text.split()[1] for text in outcome.commands] == [
        "convert-dataset", "convert-dataset", "train", "inference", "evaluate", "report",
    ]  # fmt: skip
    assert len(outcome.clips) == 12
    losses = [loss for _, loss in outcome.curve("loss")]
    assert len(losses) == 30
    assert max(losses[-3:]) < min(losses[:3])
    assert outcome.curve("eval_loss")
    assert {clip.truth for clip in outcome.clips} == set(demo_run_things())
    assert (made / "run" / "final" / "model.safetensors").is_file()


def test_its_report_shows_the_run_and_lets_every_clip_be_heard(folder):
    made, outcome = folder
    page = (made / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    (run,) = data["runs"]
    (held_out,) = run["sets"]
    right = held_out["scores"]["accuracy"]["value"]
    assert right == pytest.approx(outcome.accuracy)
    assert (
        run["headline"].startswith(f"accuracy {100 * right:.1f} %")
        and "tiny, LoRA 4, 24 clips" in run["headline"]
    )
    assert held_out["confusion"]["labels"] and len(run["series"]["loss"]) == 30
    clips = [data["audio"][place] for place in held_out["audio"]]
    assert len(clips) == 12
    # One file: sounds and pictures are in it.
    assert all(clip["src"].startswith("data:audio/wav;base64,") for clip in clips)
    assert all(clip["picture"].startswith("data:image/png;base64,") for clip in clips)
    assert not (made / "report-audio").exists()
    assert str(made.parent) not in page


def test_without_the_libraries_it_works_and_says_what_is_left_out(monkeypatch, capsys, tmp_path):
    said = ["scores of classification need the evaluate extra (sklearn is not installed)"]
    monkeypatch.setattr(demo_run, "missing_libraries", lambda task: said)
    monkeypatch.setattr(demo_run, "write_clips", lambda *_: None)
    monkeypatch.setattr(demo_run, "run_command", lambda *_: None)
    monkeypatch.setattr(demo_run, "collect", lambda folder, evaluation, commands: Outcome([], [], commands))
    outcome = demo_run.perform(tmp_path / "demo", 0, SMALL)
    assert "--task exact" in outcome.commands[4]
    assert f"no confusion matrix and no numbers of each class: {said[0]}" in capsys.readouterr().err


def demo_run_things() -> list[str]:
    from mdl_toolkit.demo.task import THINGS

    return list(THINGS)


def test_the_script_holds_the_very_commands_and_they_work_again(folder):
    made, outcome = folder
    script = made / "commands.sh"
    lines = [
        line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("mdl-toolkit ")
    ]
    assert lines == list(outcome.commands)
    assert os.access(script, os.X_OK)
    # The steps after the training by themselves, from another working directory and without a prepared PATH.
    short = script.with_name("again.sh")
    head = script.read_text(encoding="utf-8").split("\n\n")[0]
    short.write_text("\n".join([head, *lines[3:]]), encoding="utf-8")
    before = (made / "predictions.csv").read_bytes()
    for name in ("predictions.csv", "report.html"):
        (made / name).unlink()
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", short], cwd="/", env=environment, check=True, capture_output=True)
    assert (made / "predictions.csv").read_bytes() == before
    assert (made / "report.html").is_file()


def test_a_second_run_in_the_same_folder_starts_anew(folder, monkeypatch):
    made, _ = folder
    mine = [made / "run" / "notes.txt", made / "clips" / "my own.wav", made / "clips" / "train-notes.txt"]
    for path in mine:
        path.write_text("x", encoding="utf-8")
    demo_run.claim(made, 1)
    assert [path.name for path in sorted((made / "clips").iterdir())] == ["my own.wav", "train-notes.txt"]
    assert not (made / "predictions.csv").exists()
    assert not (made / "run" / "evaluation" / "test" / "scores.json").exists()
    # The run is replaced by the command that makes a new one.
    assert (made / "run" / "final").is_dir() and all(path.exists() for path in mine)
    assert json.loads((made / demo_run.MARKER).read_text(encoding="utf-8"))["seed"] == 1


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(UserError, match="not a demonstration"):
        demo_run.claim(tmp_path, 0)
    assert (tmp_path / "run" / "thesis.txt").read_text(encoding="utf-8") == "years"
    with pytest.raises(UserError, match="is a file"):
        demo_run.claim(tmp_path / "run" / "thesis.txt", 0)


def test_a_new_and_an_empty_folder_are_taken(tmp_path):
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        demo_run.claim(folder, 0)
        assert (folder / demo_run.MARKER).is_file()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(demo_run, "write_json", refuse)
    with pytest.raises(UserError, match="can't be written: Permission denied"):
        demo_run.claim(tmp_path / "x", 0)


def test_a_step_that_fails_ends_the_demonstration_with_its_command(tmp_path):
    command = demo_run.StepCommand("fail", ("mdl-toolkit", "train", "--no-such-option"))
    with pytest.raises(MdlError, match=r"exit code 2: mdl-toolkit train --no-such-option"):
        demo_run.run_command(tmp_path, command)


def test_steps_take_the_cpu_whatever_gpu_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    show = demo_run.StepCommand("show", ("sh", "-c", "printf '%s' \"<$CUDA_VISIBLE_DEVICES>\" > seen"))
    demo_run.run_command(tmp_path, show)
    assert (tmp_path / "seen").read_text() == "<>"
    demo_run.write_script(tmp_path / "commands.sh", [show])
    (tmp_path / "seen").unlink()
    subprocess.run([tmp_path / "commands.sh"], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"})
    assert (tmp_path / "seen").read_text() == "<>"


@pytest.mark.system
@pytest.mark.parametrize("key", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_what_it_says_of_a_signal_is_true(key: bool, tmp_path: Path):
    """A terminal's Ctrl-C comes to the demonstration and its step; a signal sent to the one is passed on."""
    size = "Size(train_clips=24, test_clips=12, epochs=5000, rank=4)"
    program = (
        "from pathlib import Path; from mdl_toolkit import cli; from mdl_toolkit.demo import run as demo\n"
        f"demo.demo = lambda settings: demo.perform(settings.output, 0, demo.{size})\n"
        "cli.main(['demo', '--output', 'd'])"
    )
    metrics = tmp_path / "d" / "run" / "metrics.jsonl"
    with terminal.started([sys.executable, "-c", program], cwd=tmp_path) as screen:
        screen.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 3, "a few steps")
        if key:
            screen.type("\x03")
        else:
            os.kill(screen.process, signal.SIGTERM)
        code, lines = screen.end()
    number = signal.SIGINT if key else signal.SIGTERM
    assert code == 128 + number, lines
    checkpoint = newest_complete(tmp_path / "d" / "run")
    assert checkpoint is not None
    assert any(line.startswith(f"{number.name}: finishing this step, then saving") for line in lines), lines
    told = "stopped: the training is saved in d/run; to resume it, type in d: mdl-toolkit train"
    assert lines[-1].startswith(told) and lines[-1].endswith(" (mdl-toolkit demo --output d starts anew)"), (
        lines
    )
    resumed = lines[-1].partition("type in d: ")[2].partition(" (")[0]
    assert resumed.endswith("--resume-from-checkpoint true") and "--overwrite" not in resumed
    # And it can be resumed in these very words.
    step = checkpoint.name.removeprefix("checkpoint-")
    words = [*resumed.split(), "--max-steps", str(int(step) + 1)]
    words[0:1] = [sys.executable, "-m", "mdl_toolkit"]
    ended = subprocess.run(words, cwd=tmp_path / "d", capture_output=True, text=True)
    assert ended.returncode == 0 and f"resuming from run/checkpoint-{step}" in ended.stderr, ended.stderr


def test_launcher_variables_are_not_for_its_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    show = "import os, sys; sys.exit('RANK' in os.environ or 'WORLD_SIZE' in os.environ)"
    monkeypatch.setattr("shutil.which", lambda *_, **__: sys.executable)
    demo_run.run_command(tmp_path, demo_run.StepCommand("x", ("mdl-toolkit", "-c", show)))


def test_the_screen_shows_loss_table_and_accuracy(capsys):
    metrics: Any = [{"step": k, "loss": 4.0 / k} for k in range(1, 41)]
    clips = [Answered("a.wav", "a bell", "a bell", True), Answered("b.wav", "a bell", "[red]a drum", False)]
    show(Outcome(clips, metrics))
    shown = capsys.readouterr().out
    assert "accuracy: 1 of 2 (50.0 %)" in shown
    assert "[red]a drum" in shown
    bars = [line.count("█") for line in shown.splitlines() if line.startswith("  step")]
    assert len(bars) == 8
    assert bars == sorted(bars, reverse=True)


def test_the_whole_demonstration_imports_no_torch():
    code = (
        "import sys, mdl_toolkit.demo.run, mdl_toolkit.demo.outcome, mdl_toolkit.demo.task; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_its_files_are_part_of_the_package():
    import mdl_toolkit

    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    listed = next(
        line
        for line in project.read_text(encoding="utf-8").splitlines()
        if line.startswith("mdl_toolkit = [")
    )
    packaged = json.loads(listed.partition("=")[2])
    root = Path(mdl_toolkit.__file__).parent
    for pattern in ("demo/tiny/*", "report/page/*.html"):
        assert pattern in packaged
        assert list(root.glob(pattern))
