"""Every Python that ``requires-python`` lets in: what can be told without installing torch for each.

Types and the standard library's names are mypy's to check, for the oldest (``python_version`` in
pyproject.toml); ``make test-oldest`` runs the tests with the oldest of everything.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

#: Where the light half of the package is imported, and every file compiled, with nothing installed at all.
_WORK = """
import sys
sys.path.insert(0, sys.argv[1])
for path in sys.argv[2:]:
    with open(path, encoding="utf-8") as stream:
        compile(stream.read(), path, "exec")
from mdl_toolkit.cli import main
for command in ([], ["train"], ["inference"], ["convert-dataset"], ["demo"], ["doctor"]):
    try:
        main([*command, "--help"])
    except SystemExit as end:
        assert not end.code, end.code
print("all well")
"""


def _interpreter(minor: int) -> str | None:
    named = shutil.which(f"python3.{minor}")
    managed = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
    for path in [*([named] if named else []), *map(str, managed)]:
        # A version manager's own command of that name may be there without the version.
        ask = [path, "-c", "import sys; print(sys.version_info[1])"]
        if subprocess.run(ask, capture_output=True, text=True).stdout.strip() == str(minor):
            return path
    return None


@pytest.mark.parametrize("minor", [10, 11, 12, 13, 14])
def test_the_light_half_runs(minor: int) -> None:
    python = sys.executable if sys.version_info[1] == minor else _interpreter(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} here")
    command = [python, "-I", "-W", "error::SyntaxWarning", "-c", _WORK, str(ROOT / "src"), *map(str, SOURCES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.endswith("all well\n"), done.stderr


def _bare(source: str) -> list[int]:
    """Lines with an annotation of a bare ``ClassVar`` or ``Final``.

    Python 3.10 can't evaluate them as text (``typing.get_type_hints``), as the library does with models.
    """
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign)
        and (getattr(node.annotation, "id", None) or getattr(node.annotation, "attr", None))
        in ("ClassVar", "Final")
    ]


def test_annotations_can_be_evaluated_by_the_oldest() -> None:
    assert _bare("class A:\n    a: ClassVar = 1\n    b: typing.Final = 2\n    c: ClassVar[int] = 3") == [2, 3]
    wrong = [f"{path}:{line}" for path in SOURCES for line in _bare(path.read_text(encoding="utf-8"))]
    assert not wrong
