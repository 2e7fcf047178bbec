"""What ``--help`` says: every option, in words and lines that a person in a hurry can read."""

from __future__ import annotations

import dataclasses

import pytest

from mdl_toolkit import cli
from mdl_toolkit.settings import options
from mdl_toolkit.settings.commandline import parse_flags


def test_every_help_ends_with_a_line_that_can_be_typed(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["--help"]) == 0
    overview = capsys.readouterr().out.rpartition("examples:\n")[2].splitlines()
    for (name, command), listed in zip(cli.COMMANDS.items(), overview, strict=True):
        assert cli.run([name, "--help"]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"example: {listed.strip()}"
        program, typed, *words = listed.split()
        flags, _ = parse_flags(command.settings, words)
        assert (program, typed) == ("mdl-toolkit", name)
        required = {
            f.name
            for f, _ in options.settings_fields(command.settings)
            if f.default is f.default_factory is dataclasses.MISSING
        }
        assert required <= flags.keys()


@pytest.mark.parametrize("columns", ["20", "80", "500"])
def test_help_fits_the_terminal_and_cuts_no_option_in_two(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", columns)
    for name in cli.COMMANDS:
        assert cli.run([name, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        body = [line for line in lines if not line.startswith(("usage:", "example:"))]
        assert max(map(len, body)) <= max(60, min(100, int(columns)))
        assert not [line for line in body if line.endswith("-")]


def test_help_says_whose_model_it_is(capsys: pytest.CaptureFixture[str]):
    for name, words in (("convert-dataset", "convert for"), ("train", "fine-tune"), ("inference", "ask")):
        assert cli.run([name, "--help"]) == 0
        assert f"Model to {words}:" in capsys.readouterr().out


def test_help_names_every_option_with_its_default(capsys: pytest.CaptureFixture[str]):
    for name, command in cli.COMMANDS.items():
        assert cli.run([name, "--help"]) == 0
        text = capsys.readouterr().out
        for f, _ in options.settings_fields(command.settings):
            label = f.metadata["metavar"] if f.metadata["positional"] else options.flag(f.name)
            assert label in text
            assert f.metadata["help"]
