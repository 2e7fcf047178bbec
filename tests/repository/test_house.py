"""The house rules that a machine can check: import arrows, start-up without torch, file sizes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mdl_toolkit"

# A part may import parts of a lower level only; parts of one level don't know each other.
LEVELS = {
    "errors": 0, "geometry": 0,
    "settings": 1,
    "files": 1, "memory": 1, "family": 1, "compat": 1,
    "terminal": 2,
    "gpu": 3, "hub": 3,
    "data": 4, "model": 4,
    "model_folders": 5,
    "distributed": 6, "generation": 6,
    "training": 7, "infer": 7, "demo": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip


def _part(module: str) -> str:
    return module.split(".")[1]


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "mdl_toolkit":
                found |= {f"mdl_toolkit.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return {name for name in found if name.startswith("mdl_toolkit.") and _part(name) in LEVELS}


def test_imports_go_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        part = relative.parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        assert part in LEVELS, f"{relative}: a new part; give it a level"
        for target in _imports(path):
            if _part(target) != part and LEVELS[_part(target)] >= LEVELS[part]:
                wrong.append(f"{relative} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_walk_sees_a_wrong_arrow(tmp_path: Path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from mdl_toolkit.training import run\n    from mdl_toolkit import infer\n")
    assert {_part(name) for name in _imports(bad)} == {"training", "infer"}


def _modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(out.splitlines()[-1].split())


@pytest.mark.parametrize("command", ["", "convert-dataset", "train", "inference", "demo"])
def test_help_loads_nothing_heavy(command: str):
    words = [command, "--help"] if command else ["--help"]
    loaded = _modules_after(f"from mdl_toolkit.cli import run; assert run({words!r}) == 0")
    assert not loaded & {"torch", "transformers", "datasets", "pyarrow", "numpy", "yaml", "rich"}


def test_wrong_settings_are_told_before_torch_is_loaded():
    code = "from mdl_toolkit.cli import run; assert run(['train', '--lr', '-1', '--output', 'o']) == 2"
    assert "torch" not in _modules_after(code)


def test_importing_the_package_loads_no_torch():
    assert "torch" not in _modules_after("import mdl_toolkit")


def test_the_module_can_be_run():
    out = subprocess.run(
        [sys.executable, "-m", "mdl_toolkit", "--version"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=True,
    )
    assert out.stdout.startswith("mdl-toolkit 0.")


def test_no_file_has_grown_out_of_hand():
    long = {
        str(p.relative_to(ROOT)): n
        for p in PACKAGE.rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 450
    }
    assert not long


def test_documents_exist_in_both_languages():
    english = {p.name for p in (ROOT / "docs" / "en").glob("*.md")}
    assert english and english == {p.name for p in (ROOT / "docs" / "zh").glob("*.md")}
