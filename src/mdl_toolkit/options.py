"""How a command's settings are declared, read from flags and YAML, and checked. Standard library alone.

A command's settings are a dataclass whose fields are made by :func:`option`. :func:`build` fills one from
flags and a YAML file, and reports every problem at once. Settings remember which of them were given
(:func:`given`), because a default may depend on the data or the model, and a value that somebody gave never
does.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mdl_toolkit.errors import SettingsError

S = TypeVar("S", bound="Settings")


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
    """

    _origin: Origin | None = field(default=None, repr=False, compare=False)

    def __new__(cls, **values: Any) -> Settings:
        """Note the names; a dataclass's own ``__init__`` fills in defaults and forgets who gave what."""
        made = super().__new__(cls)
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


def option(
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
) -> Any:
    """A setting: its default, its help, and the values it takes (bounds ``low``/``high`` inclusive)."""
    metadata = {
        "help": help, "group": group, "choices": choices, "low": low, "high": high, "above": above,
        "positional": positional, "metavar": metavar,
    }  # fmt: skip
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


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
    if get_origin(hint) is list:
        return OptionType(get_args(hint)[0], repeated=True)
    if get_origin(hint) in (Union, types.UnionType):
        args = get_args(hint)
        kinds = [a for a in args if isinstance(a, type) and a is not type(None)]
        return OptionType(
            kinds[0], optional=type(None) in args, auto=any(get_origin(a) is Literal for a in args)
        )
    return OptionType(hint)


def settings_fields(settings: type[Settings]) -> list[tuple[Field[Any], OptionType]]:
    """The settings of a command with their types, in order of declaration."""
    hints = get_type_hints(settings)
    return [(f, option_type(hints[f.name])) for f in _declared(settings)]


_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def parse_value(text: Any, kind: OptionType, meta: Mapping[str, Any]) -> Any:
    """Turn a flag's text or a YAML value into a setting.

    Raises:
        ValueError: With what was expected.
    """
    if kind.repeated:
        return [parse_value(item, OptionType(kind.kind), meta) for item in text]
    if kind.optional and (text is None or (isinstance(text, str) and text in ("null", "none", ""))):
        return None
    value: Any
    if kind.kind is bool:
        lowered = str(text).lower()
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
        if not str(text):
            raise ValueError("a path expected")
        value = Path(str(text)).expanduser()
    else:
        value = str(text).lower() if isinstance(text, bool) else str(text)
    _check_bounds(value, meta)
    return value


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


def build(settings: type[S], flags: Mapping[str, Any], config: Path | None = None) -> S:
    """Make a command's settings of its flags and, where given, a YAML file (flags win).

    Args:
        settings: The class of the command's settings.
        flags: Raw values by setting name; lists for repeated options.
        config: A YAML file with a mapping of setting names (dashes or underscores) to values.

    Raises:
        SettingsError: With every problem found, one line each.
    """
    problems: list[str] = []
    raw: dict[str, tuple[Any, str]] = {}
    known = {f.name: (f, kind) for f, kind in settings_fields(settings)}
    for key, value in (_read_yaml(config, problems) if config else {}).items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            problems.append(f"{config}: no setting {key!r}" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        repeated = known[name][1].repeated
        raw[name] = ([value] if repeated and not isinstance(value, list) else value, f"{config}: {key}")
    for name, value in flags.items():
        label = known[name][0].metadata["metavar"] if known[name][0].metadata["positional"] else flag(name)
        raw[name] = (value, label)
    values: dict[str, Any] = {}
    for name, (value, label) in raw.items():
        f, kind = known[name]
        try:
            values[name] = parse_value(value, kind, f.metadata)
        except (ValueError, TypeError) as error:
            problems.append(f"{label} {printable(value)}: {error}")
    attempted = set(raw)
    for name, (f, _) in known.items():
        if f.default is MISSING and f.default_factory is MISSING and name not in attempted:
            label = f.metadata["metavar"] if f.metadata["positional"] else flag(name)
            problems.append(f"{label} is missing: {f.metadata['help']}")
    made = None
    if not problems:
        made = settings(**values)
        problems += getattr(made, "problems", list)()
    if problems or made is None:
        raise SettingsError(problems)
    return made


def _read_yaml(path: Path, problems: list[str]) -> dict[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"--config {path}: can't be read: {error}")
        return {}
    except yaml.YAMLError as error:
        problems.append(f"--config {path}: not YAML: {' '.join(str(error).split())}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"--config {path}: a mapping of setting names to values expected")
        return {}
    return content


def as_dict(settings: Settings) -> dict[str, Any]:
    """A settings object as plain JSON values, for manifests."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in _values(settings).items()
    }
