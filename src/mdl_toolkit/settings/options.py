"""How a command's settings are declared. Standard library alone.

A command's settings are a dataclass whose fields are made by :func:`option`; ``values.py`` makes one from the
command line and a YAML file. What an option means elsewhere it says here, once: whoever needs to know selects
options by that (:func:`options_where`) and keeps no list of names. The declarations look alike, as the rows
of a table do. Settings remember which of them were given (:func:`given_names`), because a default may depend
on the data or the model, and a value that somebody gave never does.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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


def given_names(settings: Settings) -> frozenset[str]:
    """The names of the settings that somebody gave: by flag, in YAML, in Python, or by a change since.

    A value that was given counts also where it equals the default.
    """
    origin = settings._origin
    assert origin is not None
    return origin.given | {name for name, value in _values(settings).items() if value != origin.values[name]}


def with_defaults(settings: S, **values: Any) -> S:
    """A copy with values that nobody gave, such as defaults that depend on the model."""
    before = given_names(settings)
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


def label(f: Field[Any]) -> str:
    """What a person calls a setting: ``--lora-rank``, ``INPUT``."""
    return str(f.metadata["metavar"]) if f.metadata["positional"] else flag(f.name)


def shown(value: Any) -> str:
    """A value for one line of a message; those of a repeated option with commas."""
    return ",".join(map(printable, value)) if isinstance(value, list) else printable(value)


def as_dict(settings: Settings) -> dict[str, Any]:
    """A settings object as plain JSON values, for manifests."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in _values(settings).items()
    }
