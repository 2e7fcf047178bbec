"""Two hosts whose network is not the usual one: IPv6 alone, or names that mean something else on each."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from support.processes.launch import launched, torchrun_on_both
from support.processes.netns import ADDRESSES, ADDRESSES_6, DEBIANS_OWN, Host, two_hosts
from support.training.guide import ROOT
from support.training.shop import TRAIN, assert_same_run

pytestmark = pytest.mark.system

Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two hosts that know IPv6 alone."""
    with two_hosts(tmp_path_factory.mktemp("six"), addresses=ADDRESSES_6) as pair:
        yield pair


def _by_hand(rank: int, address: str) -> dict[str, str]:
    return {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": address, "MASTER_PORT": "29500",
    }  # fmt: skip


def _train(
    hosts: Pair, launchers: Sequence[Sequence[str]], output: str, shop: Path, address: str = ""
) -> None:
    """Train on both hosts, and compare with one process.

    Args:
        hosts: The hosts.
        launchers: What stands before the command on each of them.
        output: The folder of the run.
        shop: The folder in which all happens.
        address: Of rank 0's host, to be told by hand; without it, launchers tell the ranks.
    """
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                launched(
                    [*words, *TRAIN, "--output", output],
                    cwd=shop,
                    prefix=host.prefix,
                    env=_by_hand(rank, address) if address else {},
                )
            )
            for rank, (host, words) in enumerate(zip(hosts, launchers, strict=True))
        ]
        finished = [launch.wait() for launch in started]
    for end in finished:
        assert end.code == 0, end.output
    assert_same_run(shop / output, shop / "alone")


def test_hosts_with_ipv6_alone_train_by_torchrun(six: Pair, shop: Path):
    words = torchrun_on_both("six")
    words[words.index("host-a")] = f"[{ADDRESSES_6[0]}]:29400"
    _train(six, [words, words], "six-torchrun", shop)


def test_hosts_with_ipv6_alone_train_by_accelerate(six: Pair, shop: Path):
    launchers = []
    for rank in range(2):
        text = (ROOT / "examples" / "accelerate" / f"two_machines_rank{rank}.yaml").read_text()
        config = {**yaml.safe_load(text), "main_process_ip": ADDRESSES_6[0], "num_processes": 2}
        (shop / f"six{rank}.yaml").write_text(yaml.safe_dump(config))
        launchers.append(["accelerate", "launch", "--config_file", f"six{rank}.yaml", "--no_python"])
    _train(six, launchers, "six-accelerate", shop)


def test_hosts_with_ipv6_alone_train_by_hand(six: Pair, shop: Path):
    _train(six, [[], []], "six-hand", shop, f"[{ADDRESSES_6[0]}]")


def test_a_first_host_whose_own_name_is_its_loopback(shop: Path, tmp_path: Path):
    """Debian's 127.0.1.1: torchrun needs to be told who hosts, and Gloo which way the others are."""
    with two_hosts(tmp_path, own=DEBIANS_OWN) as hosts:
        words = torchrun_on_both("debian")
        words[words.index("host-a")] = ADDRESSES[0]
        first = [*words[:-1], "--rdzv-conf", "is_host=1", words[-1]]
        _train(hosts, [first, words], "debian-torchrun", shop)
        _train(hosts, [[], []], "debian-hand", shop, "host-a")


def test_an_address_that_leads_each_host_to_itself_is_named_on_both(shop: Path, hosts: Pair):
    with ExitStack() as stack:
        for rank, host in enumerate(hosts):
            words = [*TRAIN, "--output", "itself/"]
            env = _by_hand(rank, "localhost")
            launch = stack.enter_context(launched(words, cwd=shop, prefix=host.prefix, env=env, timeout=60))
            said = f"localhost leads host {host.name} to itself ("
            launch.until(lambda: said in launch.output, "it says so")  # noqa: B023 -- called before the next round
            launch.signal(signal.SIGTERM)
            assert launch.wait().code == 4  # stopped, and nothing was there to save
