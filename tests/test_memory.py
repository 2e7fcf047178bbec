"""Measured memory."""

from __future__ import annotations

import subprocess
import sys

from mdl_toolkit.memory import gib

# In a process of its own: what earlier tests left is freed at some moment, and may hide what is used here.
MEASURED = """
import torch
from mdl_toolkit.memory import peak_bytes, reset_peak
cpu = torch.device("cpu")
passing = torch.ones(256 * 2**20 // 4)
del passing
reset_peak(cpu)
before = peak_bytes(cpu)
block = torch.ones(64 * 2**20 // 4)
print(peak_bytes(cpu) - before)
"""


def test_peak_memory_sees_what_was_used():
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 40 * 2**20


def test_a_number_of_bytes_as_text():
    assert gib(3 * 2**29) == "1.50 GiB"
