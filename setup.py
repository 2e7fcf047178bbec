"""The description that the package index shows: README.md, with its links to files of the repository in full.

In a clone they are relative, and lead to the clone's own files. All else is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
#: Where the files of the repository can be read; `Source` in pyproject.toml's urls.
FILES = "https://github.com/xiaomi-research/dasheng-lm/blob/main/mdl-toolkit/"


def with_full_links(text: str) -> str:
    """A Markdown text whose links to files of the repository lead there from anywhere."""
    return re.sub(r"\]\((?![a-z]+:|#)([^)]+)\)", rf"]({FILES}\1)", text)


if __name__ in ("__main__", "builtins"):
    setup(
        long_description=with_full_links((ROOT / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
