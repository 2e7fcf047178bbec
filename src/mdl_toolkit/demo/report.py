"""The demonstration's report: one HTML page that carries its pictures and sounds within itself."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mdl_toolkit.demo.charts import Series, data_uri, line_chart, png, smooth, spectrogram
from mdl_toolkit.demo.sounds import Wave, write_wav
from mdl_toolkit.files import atomic_file
from mdl_toolkit.terminal.progress import duration


@dataclass(frozen=True)
class Answered:
    """A held-out clip, what is in it and what the model answered."""

    name: str
    wave: Wave
    truth: str
    prediction: str

    @property
    def correct(self) -> bool:
        """Whether the answer is exactly the truth, spaces around it aside."""
        return self.prediction.strip() == self.truth.strip()


@dataclass(frozen=True)
class FinishedStep:
    """A command that was run: what for, its text as typed, how long it took."""

    title: str
    command: str
    seconds: float


@dataclass
class Outcome:
    """All that the report shows.

    Attributes:
        clips: Every held-out clip.
        metrics: The objects of ``metrics.jsonl``.
        steps: The commands in order.
        facts: Name and value of whatever else is worth knowing.
    """

    clips: list[Answered]
    metrics: list[Mapping[str, Any]]
    steps: list[FinishedStep]
    facts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def correct(self) -> int:
        """How many clips were answered exactly."""
        return sum(clip.correct for clip in self.clips)

    @property
    def accuracy(self) -> float:
        """The share of clips answered exactly."""
        return self.correct / max(1, len(self.clips))

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Step and value of a metric, where it was written."""
        return [
            (float(m["step"]), float(m[name]))
            for m in self.metrics
            if m.get(name) is not None and "step" in m
        ]


def write_report(path: Path, outcome: Outcome) -> None:
    """Write the page.

    Args:
        path: The HTML file to write.
        outcome: What to show. Its texts may hold anything; they are escaped.
    """
    with atomic_file(path) as stream:
        stream.write(render(outcome))


def render(outcome: Outcome) -> str:
    """The page as text."""
    style = resources.files("mdl_toolkit.demo").joinpath("report.css").read_text(encoding="utf-8")
    total, right = len(outcome.clips), outcome.correct
    things = len({clip.truth for clip in outcome.clips})
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MDL-Toolkit demo: {right} of {total} clips named correctly</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main>
<header>
<p class="kicker">MDL-Toolkit demo</p>
<h1>{right} of {total} unheard clips named correctly</h1>
<p>A small MiDashengLM that could only describe pitches, noises and rhythms was taught, on the CPU, to name
{things} things by their sound. These are clips that it never heard in training.</p>
{_tiles(outcome)}
</header>
{_training(outcome)}
{_gallery(outcome.clips)}
{_confusion(outcome.clips)}
{_steps(outcome.steps)}
{_facts(outcome.facts)}
</main>
</body>
</html>
"""


def _tiles(outcome: Outcome) -> str:
    losses = outcome.curve("loss")
    held = outcome.curve("eval_loss")
    training = next((step.seconds for step in outcome.steps if " train " in step.command), None)
    tiles = [(f"{100 * outcome.accuracy:.1f} %", "held-out accuracy")]
    if losses:
        tiles.append((f"{losses[0][1]:.2f} → {losses[-1][1]:.3f}", "training loss, first and last step"))
    if held:
        tiles.append((f"{held[-1][1]:.3f}", "loss on held-out clips"))
    if training is not None:
        tiles.append((duration(training), "for the train command"))
    tiles.append(
        (duration(sum(step.seconds for step in outcome.steps)), f"for all {len(outcome.steps)} steps")
    )
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
            for value, label in tiles
        )
        + "</div>"
    )


def _training(outcome: Outcome) -> str:
    losses, held, rates = (outcome.curve(name) for name in ("loss", "eval_loss", "learning_rate"))
    if not losses:
        return ""
    mean = smooth(losses, max(2, len(losses) // 25))
    chart = line_chart(
        [Series("raw", losses), Series("line", mean), Series("held", held, dots=True)],
        "Loss by training step",
        log=True,
        x_label="optimizer step",
    )
    key = '<span class="key"><i style="background:var(--accent)"></i>training</span>'
    if held:
        key += '<span class="key"><i style="background:var(--second)"></i>held-out clips</span>'
    rate = line_chart([Series("rate", rates)], "Learning rate by training step", x_label="optimizer step")
    second = f'<div class="panel"><h3>Learning rate</h3>{rate}</div>' if rate else ""
    return f"""<section>
<h2>How it learned</h2>
<p>Loss per answer token, logarithmic; the bold line is a running mean.</p>
<div class="charts"><div class="panel"><h3>Loss {key}</h3>{chart}</div>{second}</div>
</section>"""


def _gallery(clips: Sequence[Answered]) -> str:
    shown: list[Answered] = [clip for clip in clips if not clip.correct][:12]
    seen = set()
    for clip in clips:
        if clip.correct and clip.truth not in seen:
            seen.add(clip.truth)
            shown.append(clip)
    shown = shown[:24]
    if not shown:
        return ""
    return f"""<section>
<h2>Listen</h2>
<p>One clip of each kind and every mistake. The pictures show pitch (upwards, 0 to 8 kHz, mel) over time.</p>
<div class="clips">{"".join(map(_card, shown))}</div>
</section>"""


def _card(clip: Answered) -> str:
    picture = data_uri("image/png", png(spectrogram(clip.wave)))
    sound = io.BytesIO()
    write_wav(sound, clip.wave)
    mark = (
        '<span class="mark right">right</span>' if clip.correct else '<span class="mark wrong">wrong</span>'
    )
    truth, said = html.escape(clip.truth), html.escape(clip.prediction) or "(nothing)"
    note = "heard and named" if clip.correct else f"in truth {truth}"
    return (
        f'<article class="clip{"" if clip.correct else " missed"}">'
        f'<img alt="Spectrogram of {html.escape(clip.name)}" src="{picture}">'
        f"<div>{mark}<b>{said}</b><small>{note}</small></div>"
        f'<audio controls preload="metadata" src="{data_uri("audio/wav", sound.getvalue())}"></audio>'
        "</article>"
    )


def _confusion(clips: Sequence[Answered]) -> str:
    truths = sorted({clip.truth.strip() for clip in clips})
    others = sorted({clip.prediction.strip() for clip in clips} - set(truths))
    columns = [*truths, *(["something else"] if others else [])]
    counts = {(t, c): 0 for t in truths for c in columns}
    for clip in clips:
        said = clip.prediction.strip()
        counts[clip.truth.strip(), said if said in truths else "something else"] += 1
    head = "".join(f"<th scope='col'><span>{html.escape(name)}</span></th>" for name in columns)
    rows = []
    for truth in truths:
        total = sum(counts[truth, column] for column in columns)
        cells = "".join(_cell(counts[truth, column], total, truth == column) for column in columns)
        share = f'<td class="total">{counts[truth, truth]} of {total}</td>'
        rows.append(f'<tr><th scope="row">{html.escape(truth)}</th>{cells}{share}</tr>')
    return f"""<section>
<h2>What was taken for what</h2>
<p>Rows are the truth, columns the answers.</p>
<div class="panel scroll"><table class="confusion"><thead><tr><td></td>{head}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>
</section>"""


def _cell(count: int, total: int, diagonal: bool) -> str:
    if not count:
        return '<td class="none">0</td>'
    if diagonal:
        return f'<td class="hit" style="--share:{count / total:.2f}">{count}</td>'
    return f'<td class="miss">{count}</td>'


def _steps(steps: Sequence[FinishedStep]) -> str:
    shown = "".join(
        f'<div class="step"><p><span>{number}. {html.escape(step.title)}</span>'
        f"<span>{duration(step.seconds)}</span></p>"
        f"<pre>{html.escape(step.command)}</pre></div>"
        for number, step in enumerate(steps, start=1)
    )
    return f"""<section>
<h2>The commands</h2>
<p>Exactly what was run, in this folder. The script <code>commands.sh</code> beside this page repeats it.</p>
<div class="panel">{shown}</div>
</section>"""


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(n)}</th><td>{html.escape(v)}</td></tr>' for n, v in facts
    )
    return f"""<section>
<h2>Model and machine</h2>
<p></p>
<div class="panel"><table class="facts">{rows}</table></div>
</section>"""
