"""The versions that the private interfaces are said to hold for."""

from __future__ import annotations

import sys
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from mdl_toolkit.compat import TESTED, unknown_interface
from mdl_toolkit.errors import ModelError

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_the_lowest_are_the_bounds_of_the_package() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    bounds = {(found := Requirement(line)).name: found.specifier for line in lines}
    for name, (lowest, highest) in TESTED.items():
        assert [f"{one}" for one in bounds[name]] == [f">={lowest}"], name
        assert Version(lowest) <= Version(highest)


def test_an_unknown_interface_is_told_in_one_line() -> None:
    error = unknown_interface("torch", "counts otherwise", "install a version that was tested")
    assert isinstance(error, ModelError)
    lowest, highest = TESTED["torch"]
    version = metadata.version("torch")
    expected = f"torch {version} counts otherwise (tested with {lowest} to {highest}): install a version that"
    assert str(error).startswith(expected) and "\n" not in str(error)
