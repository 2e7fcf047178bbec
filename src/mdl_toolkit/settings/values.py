"""Settings from flags and a YAML file: texts become values, and every problem is told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mdl_toolkit.errors import SettingsError, printable
from mdl_toolkit.settings.checks import local_path
from mdl_toolkit.settings.configfile import Scalar, read_config
from mdl_toolkit.settings.options import OptionType, Settings, is_required, label, settings_fields, shown
from mdl_toolkit.settings.suggestions import suggestion

S = TypeVar("S", bound=Settings)

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NONE = ("null", "none", "")


def parse_value(text: str | Sequence[str], kind: OptionType, meta: Mapping[str, Any]) -> Any:
    """Turn the text of a flag, or the texts of a repeated flag, into an option's value.

    Raises:
        ValueError: The text is not of the option's type or out of its bounds; says what was expected.
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
        if lowered not in TRUE | FALSE:
            raise ValueError("true or false expected" + (", or auto" if kind.auto else ""))
        return lowered in TRUE
    if kind.kind is int:
        value = _number(text, int, "a whole number")
    elif kind.kind is float:
        value = _number(text, float, "a number")
    elif kind.kind is Path:
        if not text:
            raise ValueError("a path expected")
        value = Path(local_path(text))
    else:
        value = local_path(text) if meta.get("path") else text
    _check_bounds(value, meta)
    return value


def _pieces(value: str, commas: bool) -> list[str]:
    """Split ``a`` or ``a,b`` or a JSON list, which 0.1.0 took too."""
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
    """Turn what was written in YAML into an option's value, and refuse what YAML would turn into another one.

    Raises:
        ValueError: The value is not of the option's type or out of its bounds; says what was expected.
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
        if not (meta["bare"] and value.text.lower() in TRUE | FALSE):
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


def make_settings(
    settings: type[S], flags: Mapping[str, Any], config: Path | None = None, before: Sequence[str] = ()
) -> S:
    """Make a command's settings from its flags and, if given, a YAML file. Flags take precedence.

    Args:
        settings: The class of the command's settings.
        flags: Texts by option name; lists of them for repeated options.
        config: A YAML file that maps option names (with dashes or underscores) to values.
        before: Problems that were found earlier, to be reported together with those found here.

    Raises:
        SettingsError: Something is wrong; it has every problem, one line each.
    """
    problems = list(before)
    values: dict[str, Any] = {}
    known = {f.name: (f, kind) for f, kind in settings_fields(settings)}
    attempted = set(flags)
    for entry in read_config(config, problems) if config else []:
        if entry.name not in known:
            problems.append(f"{entry.where}: no setting {entry.key!r}{suggestion(entry.name, known)}")
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
        # An option that was typed under another name, or without its value, has been reported already.
        told = (f"here it is {label(f)}", f"here it is {name}", f"{label(f)} needs a value")
        if is_required(f) and name not in attempted and not any(text.endswith(told) for text in problems):
            problems.append(f"{label(f)} is missing: {f.metadata['help']}")
    if not problems:
        made = settings(**values)
        problems += made.problems()
        if not problems:
            return made
    raise SettingsError(problems)


def _written(value: Scalar | list[Scalar] | None) -> str:
    return f" {shown(value.text)}" if isinstance(value, Scalar) and value.text else ""
