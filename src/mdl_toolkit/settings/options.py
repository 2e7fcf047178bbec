"""How a command's settings are declared, read from flags and YAML, and checked. Standard library alone.

A command's settings are a dataclass whose fields are made by :func:`option`. :func:`build` fills one from
flags and a YAML file, and reports every problem at once. Settings remember which of them were given
(:func:`given`), because a default may depend on the data or the model, and a value that somebody gave never
does.
"""

from __future__ import annotations

import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings.configfile import Scalar, read_config
from mdl_toolkit.settings.other_tools import instead_of

S = TypeVar("S", bound="Settings")

#: What another value of an option means where unfinished work is resumed: the checkpoint of a training, or
#: the answers that an ended ``inference`` has left.
#:
#: - ``same``: the work can't be resumed with it and is refused.
#: - ``warn``: the work goes on, with a warning.
#: - ``free``: the work goes on without a word.
#: - ``derived``: as ``free``; what the option leads to (data, model, prompts) is compared instead.
Resume = Literal["same", "warn", "free", "derived"]

#: What an option means for a converted dataset. "Found again" means: by the cache of ``train``, and by
#: ``convert-dataset`` at ``--output``.
#:
#: - ``fingerprint``: a dataset is found again only with the same value. Its folder records the value, and
#:   ``train`` refuses another one for that folder.
#: - ``recorded``: recorded and refused like that, but the dataset is found again with any value.
#: - ``derived``: what the option leads to (the input's bytes, the model's tokenizer) is in the fingerprint.
#: - ``free``: no bearing on the dataset.
Conversion = Literal["fingerprint", "recorded", "derived", "free"]


@dataclass(frozen=True)
class Origin:
    """Where the values of some settings come from.

    Attributes:
        given: Names that were passed when they were made.
        values: What all of them had then; one that differs was given later.
    """

    given: frozenset[str]
    values: Mapping[str, Any]


@dataclass(kw_only=True)
class Settings:
    """Base of every command's settings: a dataclass that remembers which values were given.

    The memory is a field, so that ``dataclasses.replace``, copies and pickles carry it along.

    Attributes:
        HEADINGS: What the help calls a group of options where it isn't the group's name.
    """

    HEADINGS: ClassVar[Mapping[str, str]] = {}

    _origin: Origin | None = field(default=None, repr=False, compare=False)

    def __new__(cls: type[S], **values: Any) -> S:
        """Note the names; a dataclass's own ``__init__`` fills in defaults and forgets who gave what."""
        made: S = super().__new__(cls)
        made.__dict__["_passed"] = frozenset(values)
        return made

    def __post_init__(self) -> None:
        passed = self.__dict__.pop("_passed")
        if self._origin is None:
            self._origin = Origin(passed, _values(self))


def given(settings: Settings) -> frozenset[str]:
    """The names of the settings that somebody gave: by flag, in YAML, in Python, or by a change since.

    A value that was given counts also where it equals the default.
    """
    origin = settings._origin
    assert origin is not None
    return origin.given | {name for name, value in _values(settings).items() if value != origin.values[name]}


def fill(settings: S, **values: Any) -> S:
    """A copy with values that nobody gave, such as defaults that depend on the model."""
    before = given(settings)
    filled = replace(settings, **values)
    filled._origin = Origin(before, _values(filled))
    return filled


def _values(settings: Settings) -> dict[str, Any]:
    found = {f.name: getattr(settings, f.name) for f in _declared(type(settings))}
    return {name: list(value) if isinstance(value, list) else value for name, value in found.items()}


def _declared(settings: type[Settings]) -> list[Field[Any]]:
    """The fields that are options: all but the memory of where they come from."""
    return [f for f in fields(settings) if f.name != "_origin"]


def option(  # noqa: PLR0913 -- all that can be said of an option, by name
    default: Any = MISSING,
    help: str = "",
    *,
    factory: Any = MISSING,
    group: str = "",
    choices: Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    positional: bool = False,
    metavar: str | None = None,
    bare: bool = False,
    commas: bool = True,
    resume: Resume | None = None,
    conversion: Conversion | None = None,
    goes_with: str | None = None,
    generation: bool = False,
) -> Any:
    """A setting: its default, its help, the values it takes, and what it means elsewhere.

    Args:
        default: Its value where none is given; required without one.
        help: One sentence or two that stand by themselves.
        factory: Makes the default.
        group: Heading in the help.
        choices: The texts that it takes.
        low: The least value that is taken.
        high: The greatest value that is taken.
        above: The value has to be greater than this.
        positional: Given by its place, not by a flag.
        metavar: How the help shows a value.
        bare: A text that may also be true or false; the flag alone means true.
        commas: Of one that is repeated: whether ``a,b`` is two values (else what it names decides, later).
        resume: What another value means where work is resumed. Every option of train and inference says it.
        conversion: What it means for a converted dataset. Every option of convert-dataset says it.
        goes_with: The option, as typed, without which this one has no effect: ``--do-sample``.
        generation: The model's own generation settings have one of this name, which this one replaces.
    """
    metadata = {
        "help": help, "group": group, "choices": choices, "low": low, "high": high, "above": above,
        "positional": positional, "metavar": metavar, "bare": bare, "commas": commas,
        "resume": resume, "conversion": conversion, "goes_with": goes_with, "generation": generation,
    }  # fmt: skip
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def varied(base: type[Settings], name: str, **changes: Any) -> Any:
    """An option of a base class once more, for a command where some of what :func:`option` says differs.

    Args:
        base: The class that declares the option.
        name: The option's name.
        changes: Keywords of :func:`option`; what isn't named stays as it is in the base class.
    """
    inherited = next(f for f in _declared(base) if f.name == name)
    return option(inherited.default, factory=inherited.default_factory, **{**inherited.metadata, **changes})


def options_where(settings: type[Settings], **wanted: Any) -> tuple[str, ...]:
    """The names of a command's options that say this of themselves, in order of declaration.

    Args:
        settings: The class of the command's settings.
        wanted: Keywords of :func:`option` and the value that each has to have; of several in a tuple, one.
    """
    return tuple(
        f.name
        for f in _declared(settings)
        if all(
            f.metadata[key] in (value if isinstance(value, tuple) else (value,))
            for key, value in wanted.items()
        )
    )


def printable(value: object) -> str:
    """A value for one line of a message; quoted where it has line breaks or control characters."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def flag(name: str) -> str:
    """A setting's name as typed on the command line: ``lora_rank`` to ``--lora-rank``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class OptionType:
    """A setting's type taken apart: the scalar kind, and whether it may be none, ``auto`` or repeated."""

    kind: type
    repeated: bool = False
    optional: bool = False
    auto: bool = False


def option_type(hint: Any) -> OptionType:
    """Take a type hint of a settings class apart."""
    args = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    lists = [a for a in args if get_origin(a) is list]
    if lists:
        return OptionType(get_args(lists[0])[0], repeated=True, optional=type(None) in args)
    kinds = [a for a in args if isinstance(a, type) and a is not type(None)]
    return OptionType(kinds[0], optional=type(None) in args, auto=any(get_origin(a) is Literal for a in args))


def settings_fields(settings: type[Settings]) -> list[tuple[Field[Any], OptionType]]:
    """The settings of a command with their types, in order of declaration."""
    hints = get_type_hints(settings)
    return [(f, option_type(hints[f.name])) for f in _declared(settings)]


_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NONE = ("null", "none", "")


def parse_value(text: str | Sequence[str], kind: OptionType, meta: Mapping[str, Any]) -> Any:
    """Turn a flag's text, or the texts of one that is repeated, into a setting.

    Raises:
        ValueError: With what was expected.
    """
    if kind.repeated:
        given = [text] if isinstance(text, str) else text
        if kind.optional and all(item in _NONE for item in given):
            return None
        items = [piece for item in given for piece in _pieces(item, meta["commas"])]
        return [parse_value(item, OptionType(kind.kind), meta) for item in items]
    if not isinstance(text, str):
        raise ValueError("one value expected, not several")
    if kind.optional and text in _NONE:
        return None
    value: Any
    if kind.kind is bool:
        lowered = text.lower()
        if kind.auto and lowered == "auto":
            return "auto"
        if lowered not in _TRUE | _FALSE:
            raise ValueError("true or false expected" + (", or auto" if kind.auto else ""))
        return lowered in _TRUE
    if kind.kind is int:
        value = _number(text, int, "a whole number")
    elif kind.kind is float:
        value = _number(text, float, "a number")
    elif kind.kind is Path:
        if not text:
            raise ValueError("a path expected")
        value = Path(os.path.expanduser(text))  # that of pathlib raises where there is no such home
    else:
        value = text
    _check_bounds(value, meta)
    return value


def _pieces(value: str, commas: bool) -> list[str]:
    """``a`` or ``a,b`` or, as the public 0.1.0 took it too, a JSON list."""
    if value.startswith("["):
        import json

        try:
            return [str(item) for item in json.loads(value)]
        except (ValueError, RecursionError):
            return [value]
    if not commas:
        return [value]
    return [item.strip() for item in value.split(",") if item.strip()]


def parse_yaml(value: Scalar | list[Scalar] | None, kind: OptionType, meta: Mapping[str, Any]) -> Any:
    """Turn what was written in YAML into a setting; never what YAML makes of it where that is something else.

    Raises:
        ValueError: With what was expected.
    """
    of_text = kind.kind in (str, Path)
    if value is None:
        raise ValueError("one value expected, not a mapping" + _quotes("{…}", of_text))
    if isinstance(value, list):
        if not kind.repeated:
            raise ValueError("one value expected, not a list" + _quotes("[…]", of_text))
        return [parse_yaml(item, OptionType(kind.kind), meta) for item in value]
    if value.read_as == "nothing" and not (of_text and value.text):
        if kind.optional:
            return None
        raise ValueError("there is no value; leave the line out for the default")
    if of_text and value.read_as:
        if value.text.lower() == "null" and kind.optional:
            return None
        if not (meta["bare"] and value.text.lower() in _TRUE | _FALSE):
            raise ValueError(f"YAML reads it as {value.read_as}" + _quotes(value.text, of_text))
    if of_text and value.quoted and not kind.repeated:
        return parse_value(value.text, OptionType(kind.kind), meta)
    digits = value.text.lstrip("+-")
    if not of_text and not value.quoted and digits.isdecimal() and digits != "0" and digits[0] == "0":
        raise ValueError("YAML reads a number that begins with 0 as octal; write it without the 0")
    return parse_value(value.text, kind, meta)


def _quotes(text: str, of_text: bool) -> str:
    return f'; put it in quotes: "{printable(text)}"' if of_text else ""


def _number(text: Any, kind: type[int] | type[float], what: str) -> int | float:
    try:
        value = kind(str(text))
    except ValueError:
        raise ValueError(f"{what} expected") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("a finite number expected")
    return value


def _check_bounds(value: Any, meta: Mapping[str, Any]) -> None:
    choices = meta.get("choices")
    if choices and value not in choices:
        raise ValueError(f"one of {', '.join(choices)} expected")
    if meta.get("low") is not None and value < meta["low"]:
        raise ValueError(f"at least {meta['low']:g} expected")
    if meta.get("high") is not None and value > meta["high"]:
        raise ValueError(f"at most {meta['high']:g} expected")
    if meta.get("above") is not None and value <= meta["above"]:
        raise ValueError(f"more than {meta['above']:g} expected")


def build(
    settings: type[S], flags: Mapping[str, Any], config: Path | None = None, before: Sequence[str] = ()
) -> S:
    """Make a command's settings of its flags and, where given, a YAML file (flags win).

    Args:
        settings: The class of the command's settings.
        flags: Texts by setting name; lists of them for repeated options.
        config: A YAML file with a mapping of setting names (dashes or underscores) to values.
        before: What was found to be wrong already.

    Raises:
        SettingsError: With every problem found, one line each.
    """
    problems = list(before)
    values: dict[str, Any] = {}
    known = {f.name: (f, kind) for f, kind in settings_fields(settings)}
    attempted = set(flags)
    for entry in read_config(config, problems) if config else []:
        if entry.name not in known:
            problems.append(f"{entry.where}: no setting {entry.key!r}{instead_of(entry.name, known)}")
        elif entry.name not in flags:
            attempted.add(entry.name)
            f, kind = known[entry.name]
            try:
                values[entry.name] = parse_yaml(entry.value, kind, f.metadata)
            except ValueError as error:
                problems.append(f"{entry.where}: {entry.key}{_written(entry.value)}: {error}")
    for name, value in flags.items():
        f, kind = known[name]
        try:
            values[name] = parse_value(value, kind, f.metadata)
        except ValueError as error:
            problems.append(f"{label(f)} {shown(value)}: {error}")
    for name, (f, _) in known.items():
        required = f.default is MISSING and f.default_factory is MISSING
        # Where it was typed under another name, or without its value, that has been told.
        told = (f"here it is {label(f)}", f"here it is {name}", f"{label(f)} needs a value")
        if required and name not in attempted and not any(text.endswith(told) for text in problems):
            problems.append(f"{label(f)} is missing: {f.metadata['help']}")
    made = None
    if not problems:
        made = settings(**values)
        problems += getattr(made, "problems", list)()
    if problems or made is None:
        raise SettingsError(problems)
    return made


def label(f: Field[Any]) -> str:
    """What a person calls a setting: ``--lora-rank``, ``INPUT``."""
    return str(f.metadata["metavar"]) if f.metadata["positional"] else flag(f.name)


def shown(value: Any) -> str:
    """A value for one line of a message; those of a repeated option with commas."""
    return ",".join(map(printable, value)) if isinstance(value, list) else printable(value)


def _written(value: Scalar | list[Scalar] | None) -> str:
    return f" {shown(value.text)}" if isinstance(value, Scalar) and value.text else ""


def as_dict(settings: Settings) -> dict[str, Any]:
    """A settings object as plain JSON values, for manifests."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in _values(settings).items()
    }
