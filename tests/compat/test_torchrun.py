"""Where the processes of a launch find their key-value store."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdl_toolkit.compat.torchrun import agent_serves_store

SCRIPT = """
import os
from mdl_toolkit.compat.torchrun import agent_serves_store
told = os.environ.pop("TORCHELASTIC_USE_AGENT_STORE")
found = agent_serves_store()
agent_serves_store.cache_clear()
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = told
print(told, agent_serves_store(), found)
"""


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    agent_serves_store.cache_clear()
    yield
    agent_serves_store.cache_clear()


@pytest.mark.system
def test_torchruns_agent_says_so_and_is_found_where_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run([*command, str(tmp_path / "say.py")], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


@pytest.mark.parametrize(("told", "served"), [("True", True), ("False", False)])
def test_what_it_says_counts(told: str, served: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", told)
    assert agent_serves_store() == served


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("by_torchrun", [True, False])
def test_else_something_listens_already(
    listens: bool, by_torchrun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if by_torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        if not listens:
            server.close()
        assert agent_serves_store() == (listens and by_torchrun)


def test_alone_there_is_no_agent() -> None:
    assert not agent_serves_store()
