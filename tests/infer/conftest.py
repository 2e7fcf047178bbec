"""A model and a folder of its own for each test of the command ``inference``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.generation.generator import Generator
from support.models.tiny import make_model_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, outside of any launcher."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def interrupted_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """A block in which inference ends, as if killed, when it has so many answers."""
    stream = Generator.stream

    @contextmanager
    def block(answers: int) -> Iterator[None]:
        count = 0

        def stopping(self: Generator, prompts: Any, slots: int) -> Iterator[Any]:
            nonlocal count
            for answer in stream(self, prompts, slots):
                if count == answers:
                    raise KeyboardInterrupt
                count += 1
                yield answer

        with monkeypatch.context() as patch:
            patch.setattr(Generator, "stream", stopping)
            with pytest.raises(KeyboardInterrupt):
                yield

    return block
