"""The house rules that a machine can check: which way imports go, start-up without torch, sizes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mdl_toolkit"

# A part may import parts of a lower level only; parts of one level don't know each other.
LEVELS = {
    "errors": 0, "geometry": 0,
    "settings": 1, "model_shape": 1,
    "files": 1, "memory": 1, "family": 1, "compat": 1,
    "terminal": 2,
    "gpu": 3, "hub": 3,
    "data": 4, "model": 4,
    "model_folders": 5, "scoring": 5, "inspection": 5,
    "distributed": 6, "generation": 6, "report": 6,
    "training": 7, "infer": 7, "demo": 7, "doctor": 7,
    "verify": 8,
    "cli": 9, "__main__": 10,
}  # fmt: skip


#: Every module of the package by its name, a package by its ``__init__.py``.
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
CODE = ("src", "tests", "benchmarks", "scripts", "docs", "examples", ".github")


def _part(module: str) -> str:
    return module.split(".")[1]


def _imports(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, in functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.startswith("mdl_toolkit.") and name in MODULES}


def _circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Groups of places from each of which an arrow leads, over others, to every other one."""
    reached = {place: _reached(place, arrows) for place in arrows}
    found = {frozenset(q for q in reached[p] if p in reached.get(q, ())) for p in arrows if p in reached[p]}
    return [set(circle) for circle in found]


def _reached(place: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [place]
    while waiting:
        new = arrows.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


def _rooms(folder: str) -> dict[str, set[str]]:
    """The folders and files that lie in a package, each with those beside it that it imports from."""

    def beside(module: str) -> str:
        return module[: module.find(".", len(folder) + 1)] if module.count(".") > depth else module

    depth = folder.count(".") + 1
    arrows: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if module.startswith(f"{folder}."):
            inside = {beside(target) for target in _imports(path) if target.startswith(f"{folder}.")}
            arrows.setdefault(beside(module), set()).update(inside - {beside(module)})
    return arrows


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


def test_peft_is_imported_where_its_import_of_bitsandbytes_is_provided_for():
    """Else that fetches compiled code from the Hub on some processors, or says that it can't."""
    for path in MODULES.values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = {node for node in ast.walk(tree) if _imports_peft(node)}
        if imports:
            assert "import_bitsandbytes(" in path.read_text(encoding="utf-8"), path
            assert not imports & set(tree.body), f"{path}: import PEFT in the function that needs it"


def _imports_peft(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] == "peft" for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "peft"


def test_no_files_import_each_other_in_a_circle():
    assert not _circles({module: _imports(path) - {module} for module, path in MODULES.items()})


@pytest.mark.parametrize("folder", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_nothing_in_a_folder_imports_what_imports_it(folder: str):
    """A room beside another is above or below it, whole."""
    assert not _circles(_rooms(folder))


def test_a_circle_is_found():
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]
    assert not _circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def _modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(out.splitlines()[-1].split())


@pytest.mark.parametrize(
    "command",
    [
        "",
        "convert-dataset",
        "train",
        "inference",
        "evaluate",
        "inspect",
        "report",
        "verify",
        "demo",
        "doctor",
    ],
)
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


def test_no_two_classes_have_one_name():
    """``Plan`` is one thing, wherever it is imported from."""
    names = Counter(
        node.name.lstrip("_")
        for path in MODULES.values()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, n in names.items() if n > 1} == set()


def _files(*endings: str) -> list[Path]:
    """Files of the repository's rooms, without what Python and tools leave there."""
    return [
        path
        for top in CODE
        for path in sorted((ROOT / top).rglob("*"))
        if path.is_file()
        and not {"__pycache__"} & set(path.parts)
        and not any(part.endswith(".egg-info") for part in path.parts)
        and (not endings or path.suffix in endings)
    ]


def test_no_file_has_grown_out_of_hand():
    lines = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in _files(".py")}
    assert {name: n for name, n in lines.items() if n > 450} == {}


def test_no_function_has_grown_out_of_hand():
    """One screen, with its docstring."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in _files(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= 50
    ]
    assert not long


def test_no_folder_has_grown_out_of_hand():
    held = Counter(str(path.parent.relative_to(ROOT)) for path in _files())
    assert {folder: n for folder, n in held.items() if n > 12} == {}


def test_documents_exist_in_both_languages():
    english = {p.name for p in (ROOT / "docs" / "en").glob("*.md")}
    assert english and english == {p.name for p in (ROOT / "docs" / "zh").glob("*.md")}
