"""The documents keep their word: tests and options they name exist, links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mdl_toolkit"
FOLDERS = (".github", "benchmarks", "docs", "examples", "scripts", "src", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for f in FOLDERS for path in (ROOT / f).rglob("*.md"))])
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


def _prose(document: Path) -> str:
    """A document without its blocks of code, in which a line with # is no heading and brackets no link."""
    text = document.read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(document: Path) -> set[str]:
    """GitHub's names of headings: words in small letters, joined by hyphens; -1 for the second of a name."""
    names: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", _prose(document), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        names.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    counts = [names[:place].count(name) for place, name in enumerate(names)]
    return {f"{name}-{count}" if count else name for name, count in zip(names, counts, strict=True)}


def _broken(document: Path) -> list[str]:
    """Links of a document to a file or a heading of the repository that is not there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(document)):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if "://" not in link and not (
            target.exists() and (not anchor or (target.suffix == ".md" and anchor in _anchors(target)))
        ):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    assert not _broken(document)


def test_broken_links_are_found(tmp_path: Path):
    (tmp_path / "other.md").write_text(
        "# The `final/` *form*, again\n\n# Twice\n\n# Twice\n```bash\n# no heading\n```\n"
    )
    good = [
        "other.md",
        "other.md#the-final-form-again",
        "other.md#twice-1",
        "#here",
        "https://example.org/#x",
    ]
    bad = ["none.md", "other.md#no-heading", "other.md#twice-2", "#there", "../none/"]
    document = tmp_path / "document.md"
    document.write_text("# Here\n" + "\n".join(f"[words]({link})" for link in good + bad))
    assert _broken(document) == bad


def test_make_knows_what_documents_and_workflows_call():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = {name for names in re.findall(r"^([a-z -]+):", makefile, re.MULTILINE) for name in names.split()}
    callers = [*DOCUMENTS, *(ROOT / ".github/workflows").glob("*.yml"), ROOT / ".ci/run"]
    called = set()
    for path in [*callers, ROOT / ".pre-commit-config.yaml"]:
        text = path.read_text(encoding="utf-8")
        called |= set(re.findall(r'(?:^|`|: |=1 |" )make ([a-z-]+)', text, re.MULTILINE))
    assert {"demo", "test", "test-oldest", "test-newest", "coverage", "lint", "links", "dist"} <= called
    assert called <= known, called - known


def test_documents_name_no_option_that_does_not_exist():
    from mdl_toolkit import cli
    from mdl_toolkit.settings import options

    known = {
        options.flag(f.name) for c in cli.COMMANDS.values() for f, _ in options.settings_fields(c.settings)
    }
    known |= {"--help", "--version", "--config"}
    for language in ("en", "zh"):
        for name in ("guide.md", "evaluation.md"):
            text = (ROOT / "docs" / language / name).read_text(encoding="utf-8")
            used = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
            assert used and used <= known, used - known


def test_every_task_has_its_part_in_the_page_on_evaluation():
    from mdl_toolkit.settings.score_names import SCORES

    for language in ("en", "zh"):
        text = (ROOT / "docs" / language / "evaluation.md").read_text(encoding="utf-8")
        assert sorted(re.findall(r"^### .*`--task (\w+)`$", text, re.MULTILINE)) == sorted(SCORES)


CODE = re.compile(r"`([\w./]*[\w]+\.py)(?:::([\w.]+))?`")
FOLDER = re.compile(r"`([\w./]+/)`")
#: Folders of a run, not of the repository.
OUTPUTS = {"final/", "best/"}


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
