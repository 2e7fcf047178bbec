"""The documents keep their word: tests and options they name exist, links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mdl_toolkit"
DOCUMENTS = sorted(
    p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promised(language: str) -> list[tuple[str, str]]:
    return TEST_NAME.findall((ROOT / "docs" / language / "reliability.md").read_text(encoding="utf-8"))


def test_every_promise_names_a_test_that_exists():
    named = promised("en")
    assert len(named) > 50
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file()
        or not re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not missing


def test_every_line_of_the_table_has_a_test():
    for language in ("en", "zh"):
        text = (ROOT / "docs" / language / "reliability.md").read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
        lines = [line for line in rows if not re.search(r"\| (test|测试) \|$", line)]
        assert lines and all(TEST_NAME.search(line) for line in lines)


def test_both_languages_promise_the_same():
    assert promised("en") == promised("zh")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
    broken = [t for t in targets if t and not (document.parent / t).exists()]
    assert not broken


def test_documents_name_no_option_that_does_not_exist():
    from mdl_toolkit import cli
    from mdl_toolkit.settings import options

    known = {
        options.flag(f.name) for c in cli.COMMANDS.values() for f, _ in options.settings_fields(c.settings)
    }
    known |= {"--help", "--version", "--config"}
    for language in ("en", "zh"):
        text = (ROOT / "docs" / language / "guide.md").read_text(encoding="utf-8")
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
        assert used and used <= known, used - known


CODE = re.compile(r"`([\w./]*[\w]+\.py)(?:::([\w.]+))?`")
FOLDER = re.compile(r"`([\w./]+/)`")
#: Folders of a run, not of the repository.
OUTPUTS = {"final/"}


def _definitions(path: Path) -> set[str]:
    """Functions, classes and their methods (``Class.method``) of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
    return found


def _named(text: str) -> list[tuple[str, str]]:
    """Files that a text names but that don't exist, and functions that aren't in theirs."""
    wrong = []
    folders = [(folder, "") for folder in FOLDER.findall(text) if folder not in OUTPUTS]
    for name, definition in [*CODE.findall(text), *folders]:
        path = next((p for p in (ROOT / name, PACKAGE / name) if p.exists()), None)
        if path is None or (definition and definition not in _definitions(path)):
            wrong.append((name, definition))
    return wrong


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_maps_name_files_and_functions_that_exist(document: str):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert len(CODE.findall(text) + FOLDER.findall(text)) > 10
    assert not _named(text)


def test_a_wrong_name_on_a_map_is_found():
    assert _named("`data/prompt/builder.py::PromptBuilder.encode` `cli.py::run` `tests/data/`") == []
    text = "`data/nowhere.py` `cli.py::walk` `data/prompt/builder.py::PromptBuilder.decipher` `tests/dating/`"
    assert len(_named(text)) == 4


def test_the_tour_covers_every_room():
    """Whoever opens a folder of the package finds it on the map."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")} - {Path()}
    assert {str(room) for room in rooms if f"{room}/" not in text} == set()
