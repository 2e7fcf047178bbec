"""A model and a folder of its own for each test of the command ``inference``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.generation.likelihood import ChoiceScorer
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

    @contextmanager
    def block(answers: int) -> Iterator[None]:
        count = 0

        def stopping(stream: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def stopped(*arguments: Any) -> Iterator[Any]:
                nonlocal count
                for answer in stream(*arguments):
                    if count == answers:
                        raise KeyboardInterrupt
                    count += 1
                    yield answer

            return stopped

        with monkeypatch.context() as patch:
            for answerer in (Generator, ChoiceScorer):
                patch.setattr(answerer, "stream", stopping(answerer.stream))
            with pytest.raises(KeyboardInterrupt):
                yield

    return block
