"""Where a command prints to may break at any time: the work goes on, and the exit code is the work's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mdl_toolkit.training.checkpoints.storage import newest_complete
from support.processes.launch import environment, run
from support.training.shop import CONVERT, PREDICT, TRAIN, train_on

pytestmark = pytest.mark.system

#: Words before a command, by what they do to its output.
SINKS = {
    "full disk": 'exec "$@" >/dev/full 2>&1',
    "closed": 'exec "$@" >&- 2>&-',
    "reader gone": '{ "$@"; echo $? >code; } 2>&1 | true; sleep 0.2; while [ ! -s code ]; do sleep 0.1; done;'
    " exit $(cat code)",
    "ascii": 'PYTHONIOENCODING=ascii LC_ALL=C TERM=dumb COLUMNS=0 "$@"',
    "no home": 'env -u HOME "$@"',
    "home of another": 'HOME=/proc/1/nowhere "$@"',
    # As a container runs with ``--user``: nobody of that number is known.
    "unknown user": 'exec env -u HOME -u USER -u LOGNAME unshare -U --map-user=12345 --map-group=12345 "$@"',
}


def through(sink: str, words: Sequence[str], folder: Path) -> int:
    (folder / "code").unlink(missing_ok=True)
    finished = run(words, cwd=folder, prefix=["sh", "-c", SINKS[sink], "sh"])
    assert "Traceback" not in finished.output and "Exception ignored" not in finished.output, finished.output
    return finished.code


@pytest.mark.parametrize("sink", SINKS)
def test_every_command_does_its_work(sink: str, shop: Path):
    if "unshare" in SINKS[sink] and subprocess.run(["unshare", "-U", "true"], capture_output=True).returncode:
        pytest.skip("no right to be another user")
    name = sink.replace(" ", "-")
    assert through(sink, [*CONVERT, f"{name}-converted"], shop) == 0
    words = ["--logging-steps", "1", "--output", f"{name}-run"]
    words = [*train_on(f"{name}-converted"), *words]
    assert through(sink, words, shop) == 0
    assert (shop / f"{name}-run" / "final" / "model.safetensors").is_file()
    assert through(sink, [*PREDICT, f"{name}.csv"], shop) == 0
    assert (shop / f"{name}.csv").read_bytes().count(b"\n") == 10
    # What is wrong keeps its code as well.
    assert through(sink, [*CONVERT[:2], "nothing.csv", *CONVERT[3:], "nothing"], shop) == 2


@pytest.mark.parametrize("sink", ["full disk", "reader gone", "ascii"])
def test_the_demonstration_too(sink: str, tmp_path: Path):
    program = (
        "from mdl_toolkit import cli; from mdl_toolkit.demo import run as demo\n"
        "perform = demo.perform\n"
        "demo.perform = lambda folder, seed, size: perform(folder, seed, demo.Size(24, 12, 1.0))\n"
        "cli.main(['demo', '--output', 'demonstration'])"
    )
    assert through(sink, [sys.executable, "-c", program], tmp_path) == 0
    assert (tmp_path / "demonstration" / "report.html").is_file()


def test_a_training_is_saved_when_its_reader_has_gone_and_it_is_told_to_stop(shop: Path):
    """``train … 2>&1 | head``: head ends, the training doesn't."""
    words = [*TRAIN, "--num-epochs", "5000", "--output", "headless/"]
    reading, writing = os.pipe()
    process = subprocess.Popen(words, cwd=shop, stdout=writing, stderr=writing, env=environment(shop))
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        assert pipe.readline()
    wait = f"until [ $(wc -l <{shop}/headless/metrics.jsonl) -gt 3 ]; do sleep 0.1; done; kill {process.pid}"
    subprocess.run(["sh", "-c", wait], check=True, timeout=120, stderr=subprocess.DEVNULL)
    assert process.wait(60) == 143
    assert newest_complete(shop / "headless") is not None


@pytest.mark.parametrize(
    ("sink", "code", "told"),
    [
        ("exec >/dev/full", 1, "error: standard output can't be written: No space left on device\n"),
        ("exec >&-", 0, ""),
        ("export PYTHONIOENCODING=ascii COLUMNS=0", 0, ""),
    ],
)
def test_help_where_standard_output_is_not_what_it_should_be(sink: str, code: int, told: str):
    for words in ("--help", "--version", "train --help"):
        shell = ["sh", "-c", f'{sink}; exec "{sys.executable}" -m mdl_toolkit {words}']
        finished = subprocess.run(shell, capture_output=True, text=True)
        assert (finished.returncode, finished.stderr) == (code, told)


def test_help_for_a_reader_that_has_seen_enough():
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "mdl_toolkit", "train", "--help"]
    finished = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (finished.returncode, finished.stderr) == (0, "")
