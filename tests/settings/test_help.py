"""What ``--help`` says: every option, in words and lines that a person in a hurry can read."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from mdl_toolkit import cli, settings
from mdl_toolkit.settings import options
from support.command_lines import flags_of


def test_every_help_ends_with_a_line_that_can_be_typed(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["--help"]) == 0
    overview = capsys.readouterr().out.rpartition("examples:\n")[2].splitlines()
    for (name, command), listed in zip(cli.COMMANDS.items(), overview, strict=True):
        assert cli.run([name, "--help"]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"example: {listed.strip()}"
        program, typed, *words = listed.split()
        flags, _ = flags_of(command.settings, words)
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


def test_an_options_text_takes_two_lines_at_most(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "100")
    for name, command in cli.COMMANDS.items():
        assert cli.run([name, "--help"]) == 0
        texts: dict[str, list[str]] = {}
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("  ") and line[2] != " ":
                label, text = line[2:32].split()[0], line[32:] if line[30:32] == "  " else ""
                texts[label] = [text] if text else []
            elif line.startswith(" " * 32):
                texts[label].append(line.strip())
        assert texts
        for f, _ in options.settings_fields(command.settings):
            listed = bool(f.metadata["choices"]) and len(f.metadata["choices"]) > 3  # the choices follow
            label = options.label(f)
            lines = texts[label] if label in texts else texts[f"{label}…"]  # one that may be repeated
            assert len(lines) <= 2 + listed, label


def test_texts_are_sentences_that_stand_alone() -> None:
    for command in cli.COMMANDS.values():
        for f, _ in options.settings_fields(command.settings):
            text = f.metadata["help"]
            assert not text.startswith(("Of ", "The same", "As ")) and len(text.split()) >= 4, f.name


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guide_names_the_defaults_that_hold(language: str) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / language / "guide.md").read_text(encoding="utf-8")
    defaults = {options.flag(f.name): f.default for f, _ in options.settings_fields(settings.ConvertSettings)}
    named = re.findall(r"`(--[a-z-]+)`\s?[(（](\d+)(?: ?[^\d.)）]+)?[)）]", text)
    assert {name for name, _ in named} == {"--max-audio-seconds", "--url-timeout"}
    assert not [(name, value) for name, value in named if float(value) != defaults[name]]
