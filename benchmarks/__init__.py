"""Measurements: one JSON line per result. Run from the repository, ``python -m benchmarks.run``."""

import sys

from benchmarks.common import ROOT

# The tests' support makes models and recordings for the benchmarks too.
sys.path.insert(0, str(ROOT / "tests"))
