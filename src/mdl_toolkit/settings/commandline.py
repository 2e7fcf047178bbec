"""A command line taken apart: its words become texts by option name, and every mistake is told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any

from mdl_toolkit import settings
from mdl_toolkit.errors import printable
from mdl_toolkit.settings import options
from mdl_toolkit.settings.checks import local_path
from mdl_toolkit.settings.options import OptionType, flag, settings_fields, shown
from mdl_toolkit.settings.suggestions import suggestion
from mdl_toolkit.settings.values import FALSE, TRUE, parse_value


def parse_flags(
    command_settings: type[options.Settings], words: Sequence[str], problems: list[str]
) -> tuple[dict[str, Any], Path | None]:
    """Take the words of a command line apart.

    Args:
        command_settings: The class of the command's settings.
        words: What was typed after the command.
        problems: Takes what is wrong, a line each: unknown options, options without their value, two values
            where one is taken.

    Returns:
        Texts by option name (lists for repeated options), and the ``--config`` file if one is named.
    """
    line = _CommandLine(command_settings, words)
    line.read()
    problems += line.problems
    config = line.flags.pop("config", None)
    if config is None:
        return line.flags, None
    try:
        return line.flags, Path(local_path(config))
    except ValueError as error:
        problems.append(f"--config {shown(config)}: {error}")
        return line.flags, None


class _CommandLine:
    """A command line, and what of it has been read.

    Attributes:
        flags: Texts by option name.
        problems: What is wrong, a line each.
    """

    def __init__(self, command_settings: type[options.Settings], words: Sequence[str]) -> None:
        self.flags: dict[str, Any] = {}
        self.problems: list[str] = []
        self._queue = list(words)
        self._known = {f.name: (f, kind) for f, kind in settings_fields(command_settings)}
        self._short = {f"-{letter}": name for name, letter in command_settings.SHORT.items()}
        self._positional = [f.name for f, _ in self._known.values() if f.metadata["positional"]]
        #: The option read last, if it is one that may be repeated.
        self._repeated: str | None = None
        #: How each option was typed.
        self._typed: dict[str, str] = {}

    def read(self) -> None:
        """Read all words."""
        while self._queue:
            word = self._queue.pop(0)
            if word == "--":  # nothing after it is an option
                while self._queue:
                    self._read_positional(self._queue.pop(0))
            elif word.startswith("--"):
                self._read_option(word)
            elif word in self._short:
                self._read_option(flag(self._short[word]))
            else:
                self._read_positional(word)

    def _read_positional(self, word: str) -> None:
        if self._positional:
            name = self._positional[0]
            if not self._known[name][1].repeated:
                self._positional.pop(0)
            self._take(name, word, shown(word))
            return
        self.problems.append(self._unexpected(word))
        if _is_short(word) and self._queue and not self._queue[0].startswith("-"):
            self._queue.pop(0)  # its value

    def _read_option(self, word: str) -> None:
        key, equals, value = word[2:].partition("=")
        name, typed = key.replace("-", "_"), f"--{printable(key)}"
        negated = name.startswith("no_") and name[3:] in self._known and self._is_bool(name[3:])
        name = name[3:] if negated else name
        if name != "config" and name not in self._known:
            self.problems.append(f"no option {typed}{_instead(name, self._known)}")
            if not equals and self._queue and not self._queue[0].startswith("--"):
                self._queue.pop(0)
        elif negated:
            if equals:
                self.problems.append(f"{typed} takes no value")
            self._take(name, "false", typed)
        elif equals:
            self._take(name, value, f"{typed} {shown(value)}")
        elif self._stands_alone(name):
            self._take(name, "true", typed)
        elif not self._queue or (self._queue[0].startswith("--") and len(self._queue[0]) > 2):
            self.problems.append(f"{typed} needs a value")
        else:
            value = self._queue.pop(0)
            self._take(name, value, f"{typed} {shown(value)}")

    def _is_bool(self, name: str) -> bool:
        return self._known[name][1].kind is bool

    def _stands_alone(self, name: str) -> bool:
        """Whether an option may be typed without a value, and the next word isn't one."""
        if name == "config":
            return False
        f, kind = self._known[name]
        if kind.kind is not bool and not f.metadata["bare"]:
            return False
        if not self._queue or self._queue[0].startswith("--"):
            return True
        words = TRUE | FALSE
        words |= {"auto"} if kind.auto else set()
        words |= {"null", "none"} if kind.optional else set()
        return not f.metadata["bare"] and self._queue[0].lower() not in words

    def _take(self, name: str, value: str, typed: str) -> None:
        """Take a value; ``typed`` is how a person would know it again."""
        self._repeated = name if name in self._known and self._known[name][1].repeated else None
        if self._repeated:
            self.flags.setdefault(name, []).append(value)
        elif name in self.flags and self._meaning(name, value) != self._meaning(name, self.flags[name]):
            self.problems.append(f"two values where one is taken: {self._typed[name]} and {typed}; keep one")
        else:
            self.flags[name] = value
            self._typed[name] = typed

    def _meaning(self, name: str, value: str) -> Any:
        """What a text stands for, so that ``1e-4`` and ``0.0001`` are no two values."""
        try:
            f, kind = self._known[name]
            return parse_value(value, kind, f.metadata)
        except (KeyError, ValueError):  # `--config`, or a text that will be refused
            return value

    def _unexpected(self, word: str) -> str:
        quoted = repr(word)
        if _is_short(word):
            return f"unexpected {quoted}: options begin with two dashes"
        if "input" in self.flags:
            return f"unexpected {quoted}: INPUT is {shown(self.flags['input'])}, and there is one only"
        if self._repeated:
            again = f"{flag(self._repeated)} {quoted}"
            return f"unexpected {quoted}: a further value needs its option again, {again}"
        if "train_dataset" in self._known:
            return f"unexpected {quoted}: data to train on are given as --train-dataset"
        return f"unexpected {quoted}"


def _is_short(word: str) -> bool:
    """Whether a word is an option as other programs have them: ``-o``."""
    return len(word) > 1 and word[0] == "-" and word[1].isalpha()


def _instead(name: str, known: Mapping[str, tuple[Field[Any], OptionType]]) -> str:
    """The end of a message about an unknown option: what it is called here, or which command has it."""
    found = suggestion(name, known, flag)
    others = [
        command
        for command, declared in settings.OF_COMMAND.items()
        if name in {f.name for f, _ in settings_fields(declared)}
    ]
    return found if found.startswith(":") or not others else f": it is an option of {' and '.join(others)}"
