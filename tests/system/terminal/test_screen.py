"""What stands on a terminal while a command works, and what is left of it: one live line, never glued."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.processes.altered import altered
from support.processes.launch import run
from support.processes.terminal import rows, started
from support.training.shop import TRAIN

pytestmark = pytest.mark.system

#: Takes a while at each call, so that there is something to see, and prints as libraries do.
NOISY = """
time.sleep(0.25)
if len(calls) == 4:
    warnings.warn("a library warns")
    logging.getLogger("library").warning("a library logs")
    print("a library prints")
    print("half a line", end="", file=sys.stderr, flush=True)
if len(calls) == 6:
    os.write(2, b"a library in C prints " + 99 * b"." + b"\\n")
"""
MICRO_BATCH = "mdl_toolkit.training.trainable.wrap.Wrapped.micro_batch"

STEP = r"step \d+/\d+ \(\d+ %\), loss \d+\.\d{4}, \d+\.\d clips/s, .+ left"
#: What the libraries print, each on a line of its own.
LIBRARIES = {"a library logs", "a library prints", "half a line", "a library in C prints " + 99 * "."}


def live_lines(written: str) -> list[str]:
    """What was drawn over later."""
    return [piece for piece in re.split(r"\r*\x1b\[2K|\r*\n", written) if piece.strip()]


def test_training(shop: Path):
    words = [*" ".join(TRAIN).replace("--eval-steps 50", "--eval-steps 7").split(), "--num-epochs", "3"]
    with started(altered(MICRO_BATCH, NOISY, [*words[1:], "--output", "seen/"]), cwd=shop) as screen:
        code, lines = screen.end()
    assert code == 0, lines
    drawn = live_lines(screen.written)
    assert "loading PyTorch…" in drawn and "loading model…" in drawn
    assert len([line for line in drawn if re.fullmatch(STEP, line)]) >= 5, drawn
    # What stays: not a trace of the live line, and every line is a line.
    assert set(lines) >= LIBRARIES and any(line.endswith("UserWarning: a library warns") for line in lines)
    assert not any(re.search(STEP, line) or line.startswith("loading") for line in lines), lines
    assert [line.split(",")[0] for line in lines if line.startswith("step ")] == ["step 18/18"], lines
    # The same lines as in a file, but for those of the steps.
    finished = run([*words, "--output", "logged/"], cwd=shop)
    assert "\x1b" not in finished.output and "\r" not in finished.output
    kept = [line for line in lines if line not in LIBRARIES and "warn" not in line]
    assert [kind(line) for line in finished.lines if not line.startswith("step ")] == [
        kind(line) for line in kept if not line.startswith("step ")
    ]
    assert finished.output.count("\nstep 1/18, ") == finished.output.count("\nstep 18/18, ") == 1


def kind(line: str) -> str:
    """A line without its numbers and names."""
    return re.sub(r"[\d.]+|seen|logged", "#", line.strip())


def test_conversion_and_inference(shop: Path):
    for function, words in (
        ("mdl_toolkit.data.conversion.work.Conversion._write", ["convert-dataset", "train.csv", "--config"]),
        ("mdl_toolkit.infer.journal.journal.Journal.add", ["inference", "test.csv", "--model-name"]),
    ):
        name = words[0]
        words += ["convert.yaml"] if name == "convert-dataset" else ["alone/final"]
        noisy = altered(function, NOISY, [*words, "--output", f"seen-{name}"])
        with started(noisy, cwd=shop) as screen:
            code, lines = screen.end()
        assert code == 0, lines
        drawn = live_lines(screen.written)
        assert [line for line in drawn if re.fullmatch(r"\w+: \d+/\d+ rows \(\d+ %\), .* left", line)], drawn
        assert ("loading PyTorch…" in drawn) == (name == "inference")
        assert set(lines) >= LIBRARIES
        assert not any("% )" in line or " left" in line or "loading PyTorch" in line for line in lines), lines


def test_an_error_stands_on_a_line_of_its_own(shop: Path):
    failing = NOISY + 'if len(calls) == 9:\n    raise RuntimeError("it fails")\n'
    words = [*TRAIN[1:], "--num-epochs", "9", "--output", "failed/"]
    with started(altered(MICRO_BATCH, failing, words), cwd=shop) as screen:
        code, lines = screen.end()
    assert code == 1 and lines[-1] == "RuntimeError: it fails"
    assert "Traceback (most recent call last):" in lines
    assert not any(re.search(STEP, line) for line in lines)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TORCHELASTIC_RUN_ID": "1"}])
def test_where_no_line_can_be_kept_live_there_is_none(environment: dict[str, str], shop: Path):
    name = "-".join(environment.values())
    words = [*TRAIN, "--output", f"plain-{name}/"]
    with started(words, cwd=shop, env=environment) as screen:
        code, lines = screen.end()
    assert code == 0, lines
    assert "\x1b" not in screen.written and "\r" not in screen.written
    assert sum(line.startswith("step ") for line in lines) >= 2


def test_lines_every_so_many_steps_are_there_on_a_terminal_too(shop: Path):
    words = [*TRAIN, "--logging-steps", "5", "--output", "counted/"]
    with started(words, cwd=shop) as screen:
        code, lines = screen.end()
    assert code == 0
    counted = [line.split("/")[0] for line in lines if line.startswith("step ")]
    assert counted == [f"step {number}" for number in (5, 10, 12)]


def test_the_screen_of_these_tests_sees_what_is_glued():
    assert rows("\r\x1b[2Kstep 1 left\r\x1b[2Kwarning\nstep 2 leftwarning\n") == [
        "warning",
        "step 2 leftwarning",
    ]
    assert rows("abcdef\rxy\n") == ["xycdef"]
