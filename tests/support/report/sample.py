"""A report's page with everything in it: two runs, three sets, odd texts, clips that play, one missing.

``python -m support.report.sample FILE`` (in ``tests/``) writes it as a page; ``--rows 10000`` makes it large.
"""

from __future__ import annotations

import argparse
import base64
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdl_toolkit.report.assemble import assemble
from mdl_toolkit.report.audio.pictures import png, spectrogram
from mdl_toolkit.report.data import ReportClip, ReportPage, ReportRun, ReportSet, ReportTable, RunComparison
from support.data.clips import tone, wav_bytes

HTML_TEXT = "</script><script>window.hacked = true</script><img src=x onerror='window.hacked = true'> & <!--"
#: Texts that a page can stumble over: markup, right to left, line separators, characters that CSV needs.
ODD_TEXTS = (
    HTML_TEXT,
    "שלום עולם, what is it",
    "مرحبا \u202eevil\u202c",
    "one\u2028two\u2029three",
    'a "quoted", cell; with\nlines',
    "null",
    "=1+1",
    " begins with a blank",
    "{{data}} {{style}}",
    "e\u0301 and é, 👩‍👩‍👧",
)
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "boats", "leave")
CHINESE = "今天天气很好我们去公园散步然后回家吃饭听音乐学习编程"
LABELS = ("a bell", "a drum", "rain", "a siren", "speech")


def sample_page(rows: int = 60, runs: int = 2, clips: int = 6) -> ReportPage:
    """A page as ``report`` makes it.

    Args:
        rows: In each of its three sets.
        runs: How many runs are compared.
        clips: How many clips can be played; there is one more that is missing.
    """
    made = [_run(number, rows, clips, runs > 1) for number in range(runs)]
    return ReportPage(
        title="tiny, LoRA 16" if runs == 1 else f"{runs} runs",
        version="0.2.0",
        generated="2026-01-31 12:00",
        runs=made,
        comparisons=[
            _compared(made[0], other, name) for other in made[1:] for name in ("main", "zh", "sounds")
        ],
        audio=[*(_clip(number) for number in range(clips)), _missing()],
        lower_is_better=[
            "wer",
            "cer",
            "eval_loss",
            "eval_wer",
            "eval_loss/zh",
            "eval_wer/zh",
            "eval_loss/sounds",
        ],
        notes=["sounds: 1 recording wasn't found"],
    )


def _run(number: int, rows: int, clips: int, several: bool) -> ReportRun:
    evaluated = (0, 100, 200, 300, 400)
    return ReportRun(
        name=("output", "output-rank-64", "third")[number] if number < 3 else f"run {number}",
        headline=f"WER {6.1 - number:.1f} % (4.9-7.4) on {rows} rows; tiny, LoRA {16 * 4**number}",
        facts=[
            ("Base model", "tiny"),
            ("Data", "train.csv, 2,700 clips, fingerprint e0e446a9bd0b"),
            (
                "Options",
                f"--lora-rank {16 * 4**number} --lr 0.003 --num-epochs 8 --user-prompt '{HTML_TEXT}'",
            ),
            ("Duration", "3.1 min"),
            ("Peak memory", "1.2 GiB"),
            ("Versions", "mdl-toolkit 0.2.0, torch 2.13.0, transformers 5.24.0"),
        ],
        series=_series(number),
        evaluations={
            "eval_loss": [(step, 0.2 + 3 * 0.98**step) for step in evaluated],
            "eval_wer": [(step, 0.06 + 0.8 * 0.98**step - 0.01 * number) for step in evaluated],
            "eval_loss/zh": [(step, 0.4 + 2 * 0.98**step) for step in evaluated],
            "eval_wer/zh": [(step, 0.1 + 0.5 * 0.98**step) for step in evaluated],
            "eval_loss/sounds": [(step, 1.4 - 0.9 * 0.99**step) for step in evaluated],
            "eval_accuracy/sounds": [(step, 0.9 - 0.0004 * step) for step in evaluated],
        },
        sets=[
            _speech("main", number, rows, clips, several),
            _speech("zh", number, rows, clips, several),
            _sounds(number, rows, clips, several),
        ],
    )


def _series(number: int) -> dict[str, list[Any]]:
    draw = random.Random(number)
    steps = range(1, 401)
    noise = [draw.gauss(0, 0.08) for _ in steps]
    loss = [(step, 0.05 + (4 - number) * 0.985**step * (1 + noise[step - 1])) for step in steps]
    return {
        "loss": [*loss[:150], (151, None), *loss[151:]],
        "learning_rate": [(step, 0.003 * min(step / 40, (401 - step) / 360)) for step in steps],
        "grad_norm": [(step, abs(draw.gauss(1, 0.4))) for step in steps],
        "clips_per_second": [(step, 95 + draw.gauss(0, 4)) for step in steps],
        "padding_share": [(step, 0.0) for step in steps],
        "memory": [(step, 6.1e8 + 1e6 * min(step, 120)) for step in steps],
    }


def _audio(rows: int, clips: int) -> list[int | None]:
    """The worst rows have clips, the next is missing, the others have none."""
    return [number if number <= clips else None for number in range(rows)]


def _speech(name: str, number: int, rows: int, clips: int, several: bool) -> ReportSet:
    value = 0.061 - 0.01 * number
    return ReportSet(
        name=name,
        task="asr",
        main_score="wer",
        rows=rows,
        scores={
            "wer": {"value": value, "low": value - 0.012, "high": value + 0.013},
            "cer": {"value": value / 2, "low": None, "high": None},
        },
        slices={
            "speaker": {
                f"speaker {k}": {
                    "rows": rows // 5,
                    "scores": {
                        "wer": {"value": value * (k + 1) / 3, "low": 0.0, "high": value * (k + 2) / 2}
                    },
                    "small": rows // 5 < 30,
                }
                for k in range(5)
            }
        },
        table=_speech_table(name, number, rows),
        reference="reference",
        prediction="prediction",
        audio=_audio(rows, clips),
        audio_note=f"{min(rows, clips)} of {rows} rows have their recording here",
        keys=list(range(rows)) if several else None,
        input_columns=["audio", "prediction", "speaker"],
        source=f"{name}.csv",
        normalizer="chinese" if name == "zh" else "english",
    )


def _speech_table(name: str, number: int, rows: int) -> ReportTable:
    draw = random.Random(f"{name} {number}")
    truths = random.Random(name)
    table: list[list[Any]] = []
    for row in range(rows):
        said = truths.choices(CHINESE, k=12) if name == "zh" else truths.choices(WORDS, k=9)
        heard = [
            piece if draw.random() > 0.06 else draw.choice(said) for piece in said if draw.random() > 0.02
        ]
        join = "" if name == "zh" else " "
        truth, answer = join.join(said), join.join(heard)
        if row < len(ODD_TEXTS):
            truth, answer = ODD_TEXTS[row], ODD_TEXTS[row - 1]
        errors = min(
            len(said), sum(a != b for a, b in zip(said, heard, strict=False)) + len(said) - len(heard)
        )
        table.append([
            f"clips/{name}-{row:05d}.wav", f"speaker {row % 5}", truth, answer, None, "stop",
            round(-draw.expovariate(4), 4), round(-draw.expovariate(1), 4), row + 1,
            round(errors / len(said), 4), errors == 0, truth.lower(), answer.lower(), errors, 0, 0, len(said),
        ])  # fmt: skip
    columns = [
        "audio", "speaker", "reference", "prediction", "error", "finish_reason", "mean_logprob",
        "min_logprob", "row", "score", "correct", "normalized_reference", "normalized_prediction",
        "substitutions", "deletions", "insertions", "reference_words",
    ]  # fmt: skip
    return ReportTable(columns=columns, rows=table)


def _sounds(number: int, rows: int, clips: int, several: bool) -> ReportSet:
    table, counts = _sounds_table(number, rows)
    right = sum(counts[k][k] for k in range(len(LABELS))) / rows
    support = [sum(counts[k]) for k in range(len(LABELS))]
    bins = [
        {"low": k / 10, "high": (k + 1) / 10, "rows": rows // 5 if k > 4 else 0,
         "confidence": k / 10 + 0.05 if k > 4 else None, "accuracy": k / 10 if k > 4 else None}
        for k in range(10)
    ]  # fmt: skip
    return ReportSet(
        name="sounds",
        task="classification",
        main_score="accuracy",
        rows=rows,
        scores={
            "accuracy": {"value": right, "low": right - 0.08, "high": min(1.0, right + 0.06)},
            "macro_f1": {"value": right, "low": right - 0.08, "high": min(1.0, right + 0.06)},
            "weighted_f1": {"value": right, "low": right - 0.08, "high": min(1.0, right + 0.06)},
        },
        per_class={
            label: {"precision": 0.9, "recall": counts[k][k] / support[k], "f1": 0.85, "support": support[k]}
            for k, label in enumerate(LABELS)
        },
        confusion={"labels": [*LABELS, "(no label)"], "counts": counts},
        calibration={"bins": bins, "ece": 0.042},
        table=table,
        reference="reference",
        prediction="prediction",
        audio=_audio(rows, clips),
        audio_note="1 recording wasn't found",
        keys=list(range(rows)) if several else None,
        input_columns=["audio", "user_prompt", "prediction"],
        source="sounds.csv",
    )  # fmt: skip


def _sounds_table(number: int, rows: int) -> tuple[ReportTable, list[list[int]]]:
    draw = random.Random(f"sounds {number}")
    counts = [[0] * (len(LABELS) + 1) for _ in LABELS]
    table: list[list[Any]] = []
    for row in range(rows):
        truth, chance = row % len(LABELS), draw.random()
        given = truth if chance > 0.15 else draw.randrange(len(LABELS)) if chance > 0.03 else len(LABELS)
        counts[truth][given] += 1
        answer = LABELS[given] if given < len(LABELS) else HTML_TEXT
        table.append([
            f"clips/sounds-{row:05d}.wav", "What is it?", LABELS[truth], answer, None, "stop",
            round(0.5 + draw.random() / 2, 4), draw.choice(LABELS), round(draw.random() / 2, 4), row + 1,
            float(given == truth), given == truth, LABELS[given] if given < len(LABELS) else None,
        ])  # fmt: skip
    made = ReportTable(
        columns=[
            "audio", "user_prompt", "reference", "prediction", "error", "finish_reason", "probability",
            "runner_up", "runner_up_probability", "row", "score", "correct", "given",
        ],
        rows=table,
    )  # fmt: skip
    return made, counts


def _compared(first: ReportRun, run: ReportRun, name: str) -> RunComparison:
    one, other = (next(s for s in r.sets if s.name == name) for r in (run, first))
    score = one.main_score or ""
    value, before = one.scores[score]["value"] or 0.0, other.scores[score]["value"] or 0.0
    near = name == "sounds"
    return RunComparison(
        set=name, score=score, run=run.name, other=first.name, rows=one.rows, value=value, other_value=before,
        difference=value - before, low=-0.03 if near else -0.014, high=0.03 if near else -0.002,
        p=0.4 if near else 0.012, better=None if near else True,
    )  # fmt: skip


def _clip(number: int) -> ReportClip:
    loud = tone(0.5 + 0.25 * number, hertz=300.0 * (number + 1))
    samples = (loud * np.linspace(1, 0.1, len(loud))).astype(np.float32)
    return ReportClip(
        src=_address("audio/wav", wav_bytes(samples)),
        picture=_address("image/png", png(spectrogram(samples))),
        seconds=len(samples) / 16000,
        path=f"clips/{number}.wav",
    )


def _missing() -> ReportClip:
    return ReportClip(
        src=None, picture=None, seconds=None, path="clips/gone.wav", missing="clips/gone.wav: no such file"
    )


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def write_sample(path: Path, **sizes: int) -> Path:
    """Write the sample as a page."""
    path.write_text(assemble(sample_page(**sizes)), encoding="utf-8")
    return path


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    for name, default in (("rows", 60), ("runs", 2), ("clips", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args(words))
    print(write_sample(given.pop("file"), **given))


if __name__ == "__main__":
    main()
