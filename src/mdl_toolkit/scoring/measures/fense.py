"""FENSE, by the optional package aac-metrics and models that it has fetched before.

Zhou et al.: Can Audio Captions Be Evaluated with Image Caption Metrics? (2022). The package and its models
are large, and load torch. So they work in a process of their own, which fetches nothing and sees no GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mdl_toolkit.errors import MdlError

HOW = "pip install aac-metrics, then aac-metrics-download"
_CHECKER = "echecker_clotho_audiocaps_base"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


class FenseMissingError(MdlError):
    """FENSE can't be computed here; the text says why."""


def fense(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The score of each caption.

    Args:
        candidates: The captions.
        references: The references of each, one at least.

    Raises:
        FenseMissingError: The package or its models aren't here, or don't work.
    """
    if importlib.util.find_spec("aac_metrics") is None:
        raise FenseMissingError(f"FENSE is left out: aac-metrics isn't installed ({HOW})")
    asked = json.dumps({"candidates": list(candidates), "references": [list(row) for row in references]})
    done = subprocess.run(  # noqa: S603 -- this package's own module
        [sys.executable, "-m", __name__],
        input=asked,
        capture_output=True,
        text=True,
        env=os.environ | _OFFLINE,
    )
    try:
        found = [float(value) for value in json.loads(done.stdout.splitlines()[-1])]
    except (ValueError, IndexError, TypeError):
        found = []
    if done.returncode or len(found) != len(candidates):
        why = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise FenseMissingError(f"FENSE is left out: {why} ({HOW})")
    return found


def _main() -> None:
    """Score the captions on standard input; the last line of the output is a list of numbers."""
    asked = json.load(sys.stdin)
    checker = _home() / f"{_CHECKER}.ckpt"
    if not checker.is_file():
        sys.exit(f"{checker} is missing")
    from aac_metrics.functional.fense import fense as package_fense

    _, each = package_fense(asked["candidates"], asked["references"], echecker=_CHECKER, device="cpu")
    sys.stdout.write(f"\n{json.dumps([float(value) for value in each['fense']])}\n")


def _home() -> Path:
    """Where the package keeps the model that finds errors of grammar."""
    named = os.environ.get("FENSE_DATA")
    if named:
        return Path(named).expanduser()
    import torch

    return Path(torch.hub.get_dir()) / "fense_data"


if __name__ == "__main__":
    _main()
