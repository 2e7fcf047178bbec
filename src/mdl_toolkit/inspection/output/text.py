"""What was found, as text for a person in a hurry: the worst first, then the set in numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from mdl_toolkit.inspection.findings.remark import quoted
from mdl_toolkit.inspection.findings.texts import prompt_text
from mdl_toolkit.terminal.progress import duration

_WIDTH = 110
_BAR = 32
#: Labels, prompts and forms of files that are listed.
_LABELS, _PROMPTS, _FILES = 20, 5, 6
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def as_text(found: dict[str, Any]) -> str:
    """The report.

    Args:
        found: As ``summary.py`` describes it.
    """
    lines: list[str] = []
    for one in found["sets"]:
        lines.append(headline(one))
    lines += ["", verdict(found)]
    for finding in found["findings"]:
        lines += _finding(finding)
    for place, one in enumerate(found["sets"]):
        name = [f"── {one['name']}"] if len(found["sets"]) > 1 else []
        lines += ["", *name, *_described(one, place == 0)]
    return "\n".join(lines)


def headline(one: dict[str, Any]) -> str:
    """A set in a line."""
    refused = one["rows"] - one["usable"]
    able = f", of which {refused:,} can't be used" if refused else ""
    return f"{one['name']}: {rows_text(one)}{able}, {duration(one['seconds'])} of audio"


def verdict(found: dict[str, Any]) -> str:
    """How many findings there are of each kind."""
    parts = [
        f"{found[kind]} {kind if found[kind] != 1 else kind[:-1]}"
        for kind in ("problems", "warnings", "notes")
        if found[kind]
    ]
    return ", ".join(parts) if parts else "nothing to complain about"


def _finding(finding: dict[str, Any]) -> Iterator[str]:
    text = finding["text"] + (f" → {finding['remedy']}" if finding["remedy"] else "")
    yield from textwrap.wrap(
        f"{finding['level']:8} {text}",
        _WIDTH,
        subsequent_indent=" " * 9,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for example in finding["examples"]:
        yield f"{'':11}{example}"
    more = finding["rows"] - len(finding["examples"])
    if finding["examples"] and more > 0 and "=" not in finding["examples"][0]:
        yield f"{'':11}and {more:,} more"


def _described(one: dict[str, Any], is_first: bool) -> Iterator[str]:
    """A set in numbers; bars for the first one only."""
    if clips := one["clips"]:
        yield f"clips    {spread_text(clips, 's')}"
        if is_first:
            yield from _bars(
                [(f"{bar['low']:g}–{bar['high']:g} s", bar["rows"]) for bar in clips["histogram"]]
            )
    answers = one["answers"]
    if answers["rows"]:
        yield f"answers  {answers_text(answers)}"
        if answers["lengths"]:
            yield f"         {spread_text(answers['lengths'], answers['unit'])}"
        listed = answers["most_frequent"][: _LABELS if answers["labels"] else 3]
        if is_first and (answers["labels"] or (listed and listed[0]["rows"] > 1)):
            yield from _bars([(quoted(item["answer"], 30), item["rows"]) for item in listed])
        if is_first and answers["labels"] and answers["distinct"] > _LABELS:
            yield f"           and {answers['distinct'] - _LABELS:,} more (--json has all)"
    for place, use in enumerate(one["prompts"][:_PROMPTS]):
        pair = prompt_text((use["system_prompt"], use["user_prompt"]))
        yield f"{'' if place else 'prompts':9}{pair} ({rows_text(use)}, {one['order']})"
    for place, form in enumerate(one["files"][:_FILES]):
        yield f"{'' if place else 'files':9}{form_text(form)} ({rows_text(form)})"
    if one["model"]:
        yield f"model    {one['model']} (its tokens are counted)"


def rows_text(item: dict[str, Any]) -> str:
    """How many rows something has."""
    return f"{item['rows']:,} row{'' if item['rows'] == 1 else 's'}"


def form_text(form: dict[str, Any]) -> str:
    """The form of recordings: ``WAV PCM_16, 8000 Hz, 1 channel``."""
    channels = f"{form['channels']} channel{'s' if form['channels'] > 1 else ''}"
    return f"{form['kind']}, {form['rate']} Hz, {channels}"


def answers_text(answers: dict[str, Any]) -> str:
    """How many answers there are, and how many different ones."""
    number, different = answers["rows"], answers["distinct"]
    if different == 1:
        return f"{number:,}, all the same"
    return f"{number:,}, {different:,} {'labels' if answers['labels'] else 'different ones'}"


def spread_text(values: dict[str, Any], unit: str) -> str:
    """How lengths are spread."""
    if values["min"] == values["max"]:
        return f"all of {values['min']:g} {unit[:-1] if values['min'] == 1 and len(unit) > 1 else unit}"
    return (
        f"{values['min']:g} to {values['max']:g} {unit}, median {values['median']:g}, 90 % between "
        f"{values['p5']:g} and {values['p95']:g}"
    )


def _bars(items: list[tuple[str, int]]) -> Iterator[str]:
    """Names, bars and numbers of rows."""
    if not items:
        return
    most = max(1, *(number for _, number in items))
    width, digits = max(len(name) for name, _ in items), len(f"{most:,}")
    for name, number in items:
        eighths = round(8 * _BAR * number / most)
        bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
        yield f"{'':9}{name:>{width}}  {number:>{digits},}  {bar or ('▏' if number else '')}".rstrip()
