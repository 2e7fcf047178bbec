"""Published outputs, and the command as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdl_toolkit import cli
from support.evaluations import Evaluate, Outcome


@pytest.fixture(scope="session")
def shared_eval() -> Path:
    """Real outputs with their published scores, which lie beside the repository where it is developed."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "eval"
    if not folder.is_dir():
        pytest.skip("there are no published outputs beside the repository")
    return folder


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Runs the command in a folder of its own: files to write there by name, then the words."""
    monkeypatch.chdir(tmp_path)

    def run(files: dict[str, str], *words: str) -> Outcome:
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        capsys.readouterr()
        code = cli.run(["evaluate", *words, "--output", "out"])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err, tmp_path / "out")

    return run
