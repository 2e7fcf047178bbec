"""How long `evaluate` takes for many rows: whole commands, wall and processor time, intervals included.

python -m benchmarks.commands.evaluate [--rows 100000] [--task asr classification …]

All sentences differ, so that nothing is normalised once for several rows. A tenth of their words is changed,
and one in a hundred answers is missing. Goals for 100,000 rows: 60 s for asr, 20 s for classification.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import emit

#: Common words, numbers and contractions among them, as speech has them.
WORDS = (
    "the of and to a in is that it he was for on with as his they at be this from had not are but what were "
    "there can out other all your when up use said an each which she do how their will way about many then "
    "them would write like so these her long make thing see him two has look more day could go come did my "
    "sound no most number who over know water than call first people may down side been now find it's don't "
    "he'd twenty hundred colour doctor old any new work part take get place made live where after back little"
)
CHINESE = "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其"
LABELS = [f"instrument {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


def changed(rng: random.Random, words: list[str], among: list[str]) -> list[str]:
    return [rng.choice(among) if rng.random() < 0.1 else word for word in words]


def english(rng: random.Random, row: int) -> tuple[str, str]:
    words = WORDS.split()
    sentence = [*rng.choices(words, k=rng.randrange(5, 36)), f"x{row}"]
    return " ".join(sentence).upper(), " ".join(changed(rng, sentence, words)).capitalize() + "."


def chinese(rng: random.Random, row: int) -> tuple[str, str]:
    sentence = [*rng.choices(CHINESE, k=rng.randrange(5, 36)), str(row)]
    return "".join(sentence), "".join(changed(rng, sentence, [*CHINESE])) + "。"


def label(rng: random.Random, _: int) -> tuple[str, str]:
    true = rng.choice(LABELS)
    return true, f"It is {true if rng.random() < 0.8 else rng.choice(LABELS)}."


KINDS: dict[str, tuple[str, Callable[[random.Random, int], tuple[str, str]]]] = {
    "asr": ("asr", english),
    "asr chinese": ("asr", chinese),
    "classification": ("classification", label),
    "exact": ("exact", label),
}


def write_rows(path: Path, make: Callable[[random.Random, int], tuple[str, str]], rows: int) -> None:
    rng = random.Random(0)  # noqa: S311 -- sentences, no secrets
    with open(path, "w", encoding="utf-8") as stream:
        for row in range(rows):
            reference, answer = make(rng, row)
            values = {"audio": f"{row}.wav", "speaker": f"s{row % 50}", "reference": reference}
            values["prediction"] = "" if row % 100 == 7 else answer
            stream.write(json.dumps(values, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--task", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    program = str(Path(sys.executable).with_name("mdl-toolkit"))
    for kind in args.task:
        task, make = KINDS[kind]
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder, "p.jsonl"), make, args.rows)
            words = ["evaluate", "p.jsonl", "--task", task, "--output", "scores", "--slice-by", "speaker"]
            start = time.perf_counter()
            child = subprocess.Popen([program, *words], cwd=folder, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(child.pid, 0)
            wall = time.perf_counter() - start
            if status:
                raise SystemExit(f"evaluate ended with {os.waitstatus_to_exitcode(status)}")
            emit(
                "evaluate",
                packages=("jiwer", "rapidfuzz", "whisper-normalizer", "scikit-learn"),
                task=kind,
                rows=args.rows,
                seconds=round(wall, 1),
                processor_seconds=round(used.ru_utime + used.ru_stime, 1),
                peak_mib=round(used.ru_maxrss / 1024),
            )


if __name__ == "__main__":
    main()
