"""What tests of `evaluate` write and look at."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Outcome:
    """What the command has said and written."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def scores(self) -> dict[str, Any]:
        return json.loads((self.folder / "scores.json").read_text(encoding="utf-8"))

    @property
    def rows(self) -> list[dict[str, str]]:
        with open(self.folder / "rows.csv", newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))


Evaluate = Callable[..., Outcome]


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
