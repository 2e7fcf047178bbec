"""What the package says is Python's logging: programs that use it silence it, redirect it, or leave it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mdl_toolkit import cli
from mdl_toolkit.terminal.console import ConsoleHandler, messages_on_console
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from support.data.clips import tone, write_wav

#: A program of somebody else's, after lines of its own.
PROGRAM = """
import logging
from pathlib import Path

{lines}

from mdl_toolkit import ConvertSettings, InferenceSettings, TrainSettings, convert_dataset, inference, train

rows = Path("rows.csv")
"""
CONVERT = """
convert_dataset(ConvertSettings(input=rows, output=Path("converted"), model_name="tiny", on_error="skip"))
"""
TRAIN_AND_PREDICT = """
train(TrainSettings(train_dataset="converted", output=Path("run"), model_name="tiny", max_steps=2))
inference(InferenceSettings(input=rows, output=Path("out.csv"), model_name="run/final", max_new_tokens=2))
"""
SILENT = 'logging.getLogger("mdl_toolkit").setLevel(logging.CRITICAL)'
TO_A_FILE = """
handler = logging.FileHandler("messages.log")
handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(filename)s: %(message)s"))
logging.getLogger("mdl_toolkit").addHandler(handler)
logging.getLogger("mdl_toolkit").setLevel(logging.INFO)
"""


def used_by_a_program(lines: str, work: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run such a program on four clips and one that is missing."""
    write_wav(folder / "a.wav", tone(0.5))
    rows = "".join(f"{name},answer\n" for name in ("a.wav", "a.wav", "a.wav", "a.wav", "missing.wav"))
    (folder / "rows.csv").write_text(f"audio,prediction\n{rows}")
    program = PROGRAM.format(lines=lines) + work
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )


def test_a_program_can_silence_it(tmp_path: Path):
    ended = used_by_a_program(SILENT, CONVERT + TRAIN_AND_PREDICT, tmp_path)
    assert (ended.stdout, ended.stderr) == ("", "")
    assert (tmp_path / "out.csv").is_file()


def test_a_program_can_redirect_it(tmp_path: Path):
    ended = used_by_a_program(TO_A_FILE, CONVERT + TRAIN_AND_PREDICT, tmp_path)
    assert (ended.stdout, ended.stderr) == ("", "")
    messages = (tmp_path / "messages.log").read_text().splitlines()
    told = {tuple(message.partition(":")[0].split()) for message in messages}
    assert ("INFO", "mdl_toolkit.training.run", "run.py") in told
    assert ("INFO", "mdl_toolkit.infer.run", "run.py") in told
    assert ("WARNING", "mdl_toolkit.data.conversion.work", "work.py") in told
    assert any("step 2/2" in message for message in messages)
    assert not any("warning: " in message for message in messages), "the level says so"


def test_a_program_that_does_nothing_about_it_sees_the_warnings(tmp_path: Path):
    """As Python has it for every library."""
    ended = used_by_a_program("", CONVERT, tmp_path)
    assert ended.stdout == ""
    # Nothing before it: neither the level, nor what to expect, which the command line says first.
    assert ended.stderr.startswith("1 of 5 rows of rows.csv can't be used"), ended.stderr


def test_the_command_line_prints_each_message_once_and_restores_what_was(capsys: pytest.CaptureFixture[str]):
    logger, package = get_logger("mdl_toolkit.of_this_test"), logging.getLogger("mdl_toolkit")
    before = list(package.handlers)
    with messages_on_console(), messages_on_console():
        assert len([h for h in package.handlers if isinstance(h, ConsoleHandler)]) == 1
        logger.info("100 % done")
        logger.warning("something is off")
        logger.error("it failed")
        logger.debug("nobody asked for this")
    assert package.handlers == before
    assert capsys.readouterr().err == "100 % done\nwarning: something is off\nerror: it failed\n"


def test_the_command_line_says_what_is_wrong_whatever_others_do_to_logging(
    capsys: pytest.CaptureFixture[str],
):
    logging.disable(logging.CRITICAL)
    try:
        assert cli.run(["trian"]) == 2
    finally:
        logging.disable(logging.NOTSET)
    assert capsys.readouterr().err == "error: no command 'trian'; did you mean train?\n"


@pytest.mark.parametrize("how", ["logging.config.dictConfig({'version': 1})", "logging.disable()"])
def test_a_command_goes_on_printing_whatever_a_library_does_to_logging(how: str):
    script = (
        "import logging.config\n"
        "from mdl_toolkit.terminal.console import messages_on_console\n"
        "from mdl_toolkit.terminal.logs import get_logger\n"
        "logger = get_logger('mdl_toolkit.of_this_test')\n"
        "with messages_on_console():\n"
        f"    {how}\n"
        "    logger.info('saved')\n"
        "    logger.debug('nobody asked for this')\n"
        "logger.warning('in a program of someone else')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "saved\n")


def test_of_a_launch_the_main_process_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    logger = get_logger("mdl_toolkit.of_this_test")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        logger.warning("of the run")
        logger.warning("of rank %s", rank, extra=EVERYWHERE)
    said = ["warning: of the run", "warning: of rank 0", "warning: of rank 1"]
    assert capsys.readouterr().err.splitlines() == said
