"""The documents keep their word: tests and options they name exist, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
