"""What the real launches share: a user's folder, one process's run to compare with, and two hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes.launch import run
from support.processes.netns import Host, two_hosts
from support.training.shop import LONG, TRAIN, make_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables, converted datasets and, in ``alone/``, one process's run with batches of 8."""
    folder = make_shop(tmp_path_factory.mktemp("shop"))
    for name in ("train", "test"):
        words = f"mdl-toolkit convert-dataset {name}.csv --config convert.yaml --output {name}-converted/"
        finished = run(words.split(), cwd=folder)
        assert finished.code == 0, finished.output
    finished = run([*TRAIN, "--batch-size", "8", "--output", "alone/"], cwd=folder)
    assert finished.code == 0, finished.output
    return folder


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two hosts on one network."""
    with two_hosts(tmp_path_factory.mktemp("hosts")) as pair:
        yield pair


@pytest.fixture(scope="session")
def undisturbed(shop: Path) -> Path:
    """One process's long run that nothing happened to."""
    finished = run([*LONG, "--batch-size", "8", "--output", "undisturbed/"], cwd=shop)
    assert finished.code == 0, finished.output
    return shop / "undisturbed"
