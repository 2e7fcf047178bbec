"""A real disk that is full when ``final/`` is written: the remedy is told, and it works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.processes.launch import run
from support.training.shop import TRAIN

pytestmark = pytest.mark.system

#: Fills the disk when all but ``final/`` is written: what was there before would be noticed at the start.
FILLING = """
import errno, sys
from mdl_toolkit.cli import main
from mdl_toolkit.training import run as training
write_final = training.write_final
def filled(settings, *rest):
    with open(settings.output.parent / "filler", "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(1 << 12))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    write_final(settings, *rest)
training.write_final = filled
main(sys.argv[1:])
"""

#: Fails, makes room, and goes on, on a disk of its own that is gone afterwards.
SCRIPT = """
mkdir -p disk && mount -t tmpfs -o size=64m none disk || exit 99
"$PYTHON" -c "$FILLING" "$@" --output disk/run
echo "first: $?"
ls disk/run
rm disk/filler
mdl-toolkit "$@" --output disk/run --resume-from-checkpoint true
echo "second: $?"
ls disk/run/final
"""


@pytest.mark.parametrize("kind", [(), ("--merge-lora", "false"), ("--method", "full")], ids=" ".join)
def test_resuming_writes_it(kind: tuple[str, ...], shop: Path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no right to mount")
    words = [word for word in TRAIN[1:] if "full" not in kind or word not in ("--lora-rank", "16")]
    finished = run(
        ["unshare", "-m", "sh", "-c", SCRIPT, "sh", *words, "--lr", "1e-5", *kind],
        cwd=shop,
        env={"PYTHON": sys.executable, "FILLING": FILLING},
    )
    first, _, second = finished.output.partition("first: 1\n")
    told = [line for line in first.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "Traceback" not in finished.output, finished.output
    assert told[0].startswith("error: disk/run/final: can't be written: ") and "No space left" in told[0]
    assert told[0].endswith(
        "; disk/run/checkpoint-12 has all that was learned: make room, then resume with "
        "--resume-from-checkpoint true, which writes it"
    )
    listing, _, after = second.partition("second: 0\n")
    assert "checkpoint-12" in listing and "final" not in listing.split("resuming from")[0].split()
    assert "step 12/12" not in listing, "no step is made again"
    assert any(name.endswith(".safetensors") for name in after.split()), finished.output
