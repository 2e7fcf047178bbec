"""A process notices that the launcher which started it is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdl_toolkit.distributed.peers.launcher import Launcher

_PROCESS = """
import sys, time
from mdl_toolkit.distributed.peers.launcher import Launcher
launcher = Launcher()
while True:
    print("gone" if launcher.is_gone else "there", file=open(sys.argv[1], "w"), flush=True)
    time.sleep(0.05)
"""


def said(path: Path, word: str) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if path.exists() and path.read_text().strip() == word:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("between", ["", "a script"])
def test_a_launcher_that_is_killed_is_missed(between: str, tmp_path: Path) -> None:
    """A script of the user's may stand between torchrun and the program."""
    words = [sys.executable, "-c", _PROCESS, str(tmp_path / "said")]
    if between:
        words = ["sh", "-c", '"$@"; exit $?', "script", *words]
    # The launcher has no such variable itself, and gives it to what it starts.
    launch = (
        f"import os, subprocess; subprocess.run({words!r}, env=os.environ | {{'TORCHELASTIC_RUN_ID': 'x'}})"
    )
    launcher = subprocess.Popen([sys.executable, "-c", launch], start_new_session=True)
    try:
        assert said(tmp_path / "said", "there")
        launcher.kill()
        launcher.wait()
        assert said(tmp_path / "said", "gone")
    finally:
        os.killpg(launcher.pid, 9)


def test_a_shell_that_ends_is_no_launcher() -> None:
    """Without torchrun, a person's shell may end before the run that it has started."""
    launcher = Launcher({"RANK": "0", "WORLD_SIZE": "2"})
    assert not launcher._parents and not launcher.is_gone
