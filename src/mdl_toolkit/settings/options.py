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

from mdl_toolkit.errors import printable

S = TypeVar("S", bound="Settings")

#: What another value of an option means where unfinished work is resumed: the checkpoint of a training, or
#: the answers that an ended ``inference`` has left.
#:
#: - ``same``: the work can't be resumed with it and is refused.
#: - ``warn``: the work goes on, with a warning.
#: - ``free``: the work goes on without a word.
#: - ``derived``: as ``free``; what the option leads to (data, model, prompts) is compared instead.
ResumeRule = Literal["same", "warn", "free", "derived"]

#: What an option means for a converted dataset. "Found again" means: by the cache of ``train``, and by
#: ``convert-dataset`` at ``--output``.
#:
#: - ``fingerprint``: a dataset is found again only with the same value. Its folder records the value, and
#:   ``train`` refuses another one for that folder.
#: - ``recorded``: recorded and refused like that, but the dataset is found again with any value.
#: - ``derived``: what the option leads to (the input's bytes, the model's tokenizer) is in the fingerprint.
#: - ``free``: no bearing on the dataset.
DatasetRule = Literal["fingerprint", "recorded", "derived", "free"]

#: What an option means for the hosts of one training, which are each started with a command of their own.
#:
#: - ``same``: all must be given the same value, or none starts; repeated options may be in any order.
#: - ``derived``: may differ; what it leads to (data, model, precision) is compared instead.
#: - ``free``: may differ, as paths, workers and caches do, and what the host of rank 0 alone prints.
HostRule = Literal["same", "derived", "free"]


@dataclass(frozen=True)
class Origin:
    """Which options were given when settings were made.

    Attributes:
        given: The names that were passed.
        values: The values of all options at that time. An option that differs now was given later.
    """

    given: frozenset[str]
    values: Mapping[str, Any]


@dataclass(kw_only=True)
class Settings:
    """Base class of every command's settings: a dataclass that remembers which options were given.

    It remembers them in a field, so that ``dataclasses.replace``, copies and pickles keep it.

    Attributes:
        HEADINGS: Headings in the help for groups of options that aren't headed by their name.
        SHORT: Options that can be given by one letter too, as in ``-n 32``, and the letters.
    """

    HEADINGS: ClassVar[Mapping[str, str]] = {}
    SHORT: ClassVar[Mapping[str, str]] = {}

    _origin: Origin | None = field(default=None, repr=False, compare=False)

    def __new__(cls: type[S], **values: Any) -> S:
        """Note the names that are passed: the dataclass's ``__init__`` can't tell them from defaults."""
        made: S = super().__new__(cls)
        made.__dict__["_passed"] = frozenset(values)
        return made

    def __post_init__(self) -> None:
        passed = self.__dict__.pop("_passed")
        if self._origin is None:
            self._origin = Origin(passed, _values(self))

    def problems(self) -> list[str]:
        """What is wrong with the options together, beyond the type and bounds of each: a line for each."""
        return []


def given_names(settings: Settings) -> frozenset[str]:
    """The names of the options that were given: by flag, in YAML, in Python, or by a later assignment.

    An option that was given its default value was given, too.
    """
    origin = settings._origin  # noqa: SLF001 -- what this module keeps in each of its settings
    assert origin is not None
    return origin.given | {name for name, value in _values(settings).items() if value != origin.values[name]}


def with_defaults(settings: S, **values: Any) -> S:
    """A copy with other values that don't count as given, such as defaults that depend on the model."""
    before = given_names(settings)
    changed = replace(settings, **values)
    changed._origin = Origin(before, _values(changed))  # noqa: SLF001 -- what this module keeps in each of its settings
    return changed


def _values(settings: Settings) -> dict[str, Any]:
    found = {f.name: getattr(settings, f.name) for f in _declared(type(settings))}
    return {name: list(value) if isinstance(value, list) else value for name, value in found.items()}


def _declared(settings: type[Settings]) -> list[Field[Any]]:
    """The fields that are options: all but :class:`Origin`."""
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
    path: bool = False,
    resume: ResumeRule | None = None,
    conversion: DatasetRule | None = None,
    hosts: HostRule | None = None,
    goes_with: str | None = None,
    generation: bool = False,
) -> Any:
    """Declare an option: its default, its help, the values it takes, and what it means elsewhere.

    Args:
        default: The value if the option isn't given. Without a default or factory the option is required.
        help: What the option does, its unit, and when to change it; two lines of the help at most.
        factory: A function that makes the default.
        group: The group of options in the help.
        choices: The texts that are taken.
        low: The least value that is taken.
        high: The greatest value that is taken.
        above: The value has to be greater than this.
        positional: The option is given by its position, without a flag.
        metavar: What the help shows in place of a value.
        bare: The flag may stand without a value, which means true, though the option takes texts.
        commas: Whether ``a,b`` is two values of a repeated option; if not, whoever uses the text decides.
        path: Whether the text may be a path, in which ``~`` and ``file://`` mean what they mean everywhere.
        resume: What another value means where work is resumed. Every option of train and inference says it.
        conversion: What it means for a converted dataset. Every option of convert-dataset says it.
        hosts: Whether it may differ between the hosts of a run. Every option of train says it.
        goes_with: The option, as typed, without which this one has no effect: ``--do-sample``.
        generation: The model's own generation settings have one of this name, which this one replaces.
    """
    metadata = {
        "help": help, "group": group, "choices": choices, "low": low, "high": high, "above": above,
        "positional": positional, "metavar": metavar, "bare": bare, "commas": commas, "path": path,
        "resume": resume, "conversion": conversion, "hosts": hosts, "goes_with": goes_with,
        "generation": generation,
    }  # fmt: skip
    return field(default=default, default_factory=factory, metadata=metadata)


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


def flag(name: str) -> str:
    """An option as typed on the command line: ``--lora-rank`` for ``lora_rank``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class OptionType:
    """The type of an option: of one value, and whether it may also be none, ``auto`` or several values."""

    kind: type
    repeated: bool = False
    optional: bool = False
    auto: bool = False


def option_type(hint: Any) -> OptionType:
    """Read the type hint of an option."""
    args = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    lists = [a for a in args if get_origin(a) is list]
    if lists:
        return OptionType(get_args(lists[0])[0], repeated=True, optional=type(None) in args)
    kinds = [a for a in args if isinstance(a, type) and a is not type(None)]
    return OptionType(kinds[0], optional=type(None) in args, auto=any(get_origin(a) is Literal for a in args))


def settings_fields(settings: type[Settings]) -> list[tuple[Field[Any], OptionType]]:
    """The options of a command with their types, in order of declaration."""
    hints = get_type_hints(settings)
    return [(f, option_type(hints[f.name])) for f in _declared(settings)]


def is_required(f: Field[Any]) -> bool:
    """Whether an option has no default."""
    return f.default is MISSING and f.default_factory is MISSING


def label(f: Field[Any]) -> str:
    """An option's name as in messages: ``--lora-rank``, or ``INPUT`` for a positional one."""
    return str(f.metadata["metavar"]) if f.metadata["positional"] else flag(f.name)


def shown(value: Any) -> str:
    """A value, or the values of a repeated option with commas between, for one line of a message."""
    return ",".join(map(printable, value)) if isinstance(value, list) else printable(value)


def as_dict(settings: Settings) -> dict[str, Any]:
    """All options with their values, as JSON has them, for manifests."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in _values(settings).items()
    }
