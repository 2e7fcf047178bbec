"""What was found, as one self-contained page without network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from mdl_toolkit import __version__
from mdl_toolkit.errors import StorageError
from mdl_toolkit.files import atomic_file, storage_cause
from mdl_toolkit.inspection.findings.texts import prompt_text
from mdl_toolkit.inspection.output.text import answers_text, headline, spread_text, verdict
from mdl_toolkit.terminal.progress import duration

#: Labels, answers and groups of copies that are listed.
_LABELS, _GROUPS, _REFUSED = 200, 200, 200
_TITLES = {"problem": "Problem", "warning": "Warning", "note": "Note"}


def write_page(target: Path, found: dict[str, Any]) -> None:
    """Write the page.

    Args:
        target: The file, which appears whole or not at all.
        found: As ``summary.py`` describes it.

    Raises:
        StorageError: It can't be written.
    """
    try:
        with atomic_file(target) as stream:
            stream.write(page(found))
    except OSError as error:
        raise StorageError(f"--output {target}: can't be written ({storage_cause(error)})") from error


def page(found: dict[str, Any]) -> str:
    """The page's HTML."""
    style = (files("mdl_toolkit.inspection.output") / "page.css").read_text(encoding="utf-8")
    names = " against ".join(one["name"] for one in found["sets"])
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(names)}: data</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>",
            f'<header><p class="kicker">MDL-Toolkit · inspect</p><h1>{escape(names)}</h1>',
            *(f"<p>{escape(headline(one))}</p>" for one in found["sets"]),
            "</header>",
            *_tiles(found),
            f"<section><h2>Findings</h2><p>{escape(verdict(found))}</p>",
            *(_finding(finding) for finding in found["findings"]),
            "</section>",
            *(part for one in found["sets"] for part in _described(one)),
            *_refused(found),
            *_copies(found),
            f"<footer>mdl-toolkit {escape(__version__)}</footer>",
            "</main>\n</body>\n</html>\n",
        ]
    )


def _tiles(found: dict[str, Any]) -> Iterator[str]:
    first = found["sets"][0]
    clips, answers = first["clips"] or {}, first["answers"]
    yield '<div class="tiles">'
    for value, name in (
        (f"{first['rows']:,}", "rows"),
        (f"{first['rows'] - first['usable']:,}", "would be refused"),
        (duration(first["seconds"]), "of audio"),
        (f"{clips['median']:g} s" if clips else "–", "median clip"),
        (
            f"{first['answers']['distinct']:,}",
            "labels" if answers["labels"] else "different answers",
        ),
    ):
        yield f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
    yield "</div>"


def _finding(finding: dict[str, Any]) -> str:
    level = finding["level"]
    examples = "".join(f"<li>{escape(example)}</li>" for example in finding["examples"])
    lines = finding["lines"]
    every = ", ".join(map(str, lines))
    listed = f"<ul>{examples}</ul>" if examples else ""
    if len(lines) > len(finding["examples"]):
        listed += f"<details><summary>all {len(lines):,} lines</summary><p>{every}</p></details>"
    remedy = f'<p class="remedy">{escape(finding["remedy"])}</p>' if finding["remedy"] else ""
    return (
        f'<article class="finding {level}"><h3><span class="mark">{_TITLES[level]}</span> '
        f"{escape(finding['topic'])}</h3><p>{escape(finding['text'])}</p>{remedy}{listed}</article>"
    )


def _described(one: dict[str, Any]) -> Iterator[str]:
    yield f"<section><h2>{escape(one['name'])}</h2>"
    answers = one["answers"]
    yield '<div class="panels">'
    if one["clips"]:
        bars = [(f"{bar['low']:g}–{bar['high']:g} s", bar["rows"]) for bar in one["clips"]["histogram"]]
        yield _panel("Length of clips", spread_text(one["clips"], "s"), bars)
    if answers["lengths"]:
        bars = [_span(bar, answers["unit"]) for bar in answers["lengths"]["histogram"]]
        yield _panel("Length of answers", spread_text(answers["lengths"], answers["unit"]), bars)
    if answers["most_frequent"]:
        bars = [(item["answer"] or "(empty)", item["rows"]) for item in answers["most_frequent"][:_LABELS]]
        title = "Labels" if answers["labels"] else "Most frequent answers"
        yield _panel(title, answers_text(answers), bars)
    if one["prompts"]:
        bars = [
            (prompt_text((use["system_prompt"], use["user_prompt"])), use["rows"]) for use in one["prompts"]
        ]
        yield _panel("Prompts", one["order"], bars[:_LABELS])
    if one["files"]:
        bars = [
            (f"{form['kind']}, {form['rate']} Hz, {form['channels']} ch", form["rows"])
            for form in one["files"]
        ]
        yield _panel("Recordings", "format, rate, channels", bars)
    yield "</div></section>"


def _span(bar: dict[str, Any], unit: str) -> tuple[str, int]:
    last = bar["high"] - 1
    name = f"{bar['low']:g}" if last <= bar["low"] else f"{bar['low']:g}–{last:g}"
    return f"{name} {unit}", bar["rows"]


def _panel(title: str, remark: str, bars: list[tuple[str, int]]) -> str:
    most = max((number for _, number in bars), default=1) or 1
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{number:,}</td>'
        f'<td class="bar"><i style="width:{100 * number / most:.1f}%"></i></td></tr>'
        for name, number in bars
    )
    return (
        f'<div class="panel"><h3>{escape(title)}</h3><p>{escape(remark)}</p><div class="scroll"><table>'
        f"<caption>{escape(title)}, rows of each</caption>{lines}</table></div></div>"
    )


def _refused(found: dict[str, Any]) -> Iterator[str]:
    rows = found["refused"]
    if not rows:
        return
    yield "<section><h2>Rows that would be refused</h2>"
    yield '<div class="panel scroll"><table class="list"><tr><th>line</th><th>reason</th></tr>'
    for row in rows[:_REFUSED]:
        yield f"<tr><td>{row['line']}</td><td>{escape(row['reason'])}</td></tr>"
    yield "</table>"
    if len(rows) > _REFUSED:
        yield f"<p>and {len(rows) - _REFUSED:,} more (--json has all)</p>"
    yield "</div></section>"


def _copies(found: dict[str, Any]) -> Iterator[str]:
    groups = found["copies"]
    if not groups:
        return
    other = found["sets"][1]["name"] if len(found["sets"]) > 1 else ""
    yield "<section><h2>Rows with the same sound</h2>"
    yield '<div class="panel scroll"><table class="list"><tr><th>how</th><th>likeness</th><th>lines</th>'
    yield f"<th>lines of {escape(other)}</th></tr>" if other else "</tr>"
    for group in groups[:_GROUPS]:
        yield f"<tr><td>{escape(group['kind'])}</td><td>{group['likeness']:.2f}</td>"
        yield f"<td>{', '.join(map(str, group['lines']))}</td>"
        yield f"<td>{', '.join(map(str, group['other_lines']))}</td></tr>" if other else "</tr>"
    yield "</table>"
    if len(groups) > _GROUPS:
        yield f"<p>and {len(groups) - _GROUPS:,} more groups (--json has all)</p>"
    yield "</div></section>"
