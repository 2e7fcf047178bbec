"""What would be published: its metadata, its links, and that the source distribution is the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import setuptools

import mdl_toolkit

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    int(setuptools.__version__.split(".")[0]) < 77,
    reason="the build needs setuptools 77: pip install -e '.[dev]'",
)


def _repository() -> list[str]:
    """Files of the checkout, new ones too; of an unpacked source distribution, all that is there."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and, made of that, the wheel; no network is needed."""
    work = tmp_path_factory.mktemp("build")
    for name in _repository():
        (work / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, work / "tree" / name)

    def build(what: str, folder: Path) -> None:
        code = f"import setuptools.build_meta as backend; backend.build_{what}({str(work)!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    build("sdist", work / "tree")
    with tarfile.open(next(work.glob("*.tar.gz"))) as archive:
        archive.extractall(work / "unpacked", filter="data")
    build("wheel", next((work / "unpacked").iterdir()))
    return work


@pytest.fixture(scope="module")
def metadata(built: Path) -> Message:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(wheel.read(name))


def test_the_source_distribution_is_the_repository(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        found = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in found if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert found - made == set(_repository())


def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {name.removeprefix("src/") for name in _repository() if name.startswith("src/")}
    assert names == package
    assert {"mdl_toolkit/py.typed", "mdl_toolkit/demo/tiny/config.json"} <= names


def test_what_the_index_shows(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("mdl-toolkit", mdl_toolkit.__version__)
    urls = dict(url.split(", ", 1) for url in metadata.get_all("Project-URL", []))
    assert set(urls) >= {"Homepage", "Source", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith("https://github.com/xiaomi-research/dasheng-lm") for url in urls.values())
    classifiers = metadata.get_all("Classifier", [])
    oldest = int(metadata["Requires-Python"].removeprefix(">=3."))
    versions = {int(c.rpartition(".")[2]) for c in classifiers if re.search(r":: 3\.\d+$", c)}
    assert versions == set(range(oldest, max(versions) + 1)) and "Typing :: Typed" in classifiers
    assert metadata["License-Expression"] == "Apache-2.0"


def test_links_of_the_description_hold_anywhere(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str) and metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 8 and all(link.startswith("https://") for link in links)
    files = "https://github.com/xiaomi-research/dasheng-lm/blob/main/mdl-toolkit/"
    ours = [link.removeprefix(files).partition("#")[0] for link in links if link.startswith(files)]
    assert len(ours) > 8 and all((ROOT / name).is_file() for name in ours)


def test_links_of_a_clone_lead_to_its_own_files() -> None:
    for readme in ("README.md", "README_zh.md"):
        links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", (ROOT / readme).read_text(encoding="utf-8"))
        assert len(links) > 8 and all((ROOT / link.partition("#")[0]).exists() for link in links)
