"""What ``import mdl_toolkit`` offers: loaded when it is first used, and seen by type checkers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mdl_toolkit
from mdl_toolkit import settings

NAMES = {"convert_dataset", "train", "inference", "ConvertSettings", "TrainSettings", "InferenceSettings"}


def test_the_names_that_people_use() -> None:
    assert {*mdl_toolkit.__all__} == NAMES | {"__version__"} and {*mdl_toolkit.__all__} <= {*dir(mdl_toolkit)}
    for name in ("ConvertSettings", "TrainSettings", "InferenceSettings"):
        assert getattr(mdl_toolkit, name) is getattr(settings, name)
    for name, taken in (
        ("convert_dataset", "ConvertSettings"),
        ("train", "TrainSettings"),
        ("inference", "InferenceSettings"),
    ):
        (parameter,) = inspect.signature(getattr(mdl_toolkit, name)).parameters.values()
        assert parameter.annotation == taken
    with pytest.raises(AttributeError, match="no attribute 'evaluate'"):
        mdl_toolkit.evaluate  # noqa: B018 -- the access is what fails


def test_type_checkers_see_them_where_they_are_loaded_from() -> None:
    tree = ast.parse(Path(mdl_toolkit.__file__).read_text(encoding="utf-8"))
    (checked,) = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == mdl_toolkit._LAZY and {*seen} == NAMES


def test_settings_are_made_without_torch() -> None:
    code = "import sys, mdl_toolkit; mdl_toolkit.TrainSettings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
