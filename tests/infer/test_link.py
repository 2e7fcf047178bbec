"""Processes on hosts that share no folder: the rows come to rank 0, and all do the same work or none does."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from mdl_toolkit.errors import HostsDisagreeError, MdlError, PeerLostError, UserError
from mdl_toolkit.infer import run as run_module
from mdl_toolkit.infer.journal import sent as sent_module
from mdl_toolkit.infer.processes import waiting
from mdl_toolkit.infer.processes.link import Link
from mdl_toolkit.infer.processes.peer import Peer
from mdl_toolkit.settings import InferenceSettings
from support.inference import make_table, predict, watch_rows

HOSTS = ("node-a", "node-b")


def together(*work: Callable[[Link], Any], patience: float = 120.0) -> list[BaseException | None]:
    """Do each piece of work in a thread, as one process of a launch with one process on each host."""
    store = HashStore()
    failed = threading.Event()
    errors: list[BaseException | None] = [None] * len(work)

    def one(rank: int) -> None:
        peer = Peer(rank, len(work), local_rank=0, local_world_size=1)
        link = Link(store, peer, failed.is_set, patience)
        link.tell(f"host/{rank}", HOSTS[rank])
        try:
            work[rank](link)
        except BaseException as error:
            errors[rank] = error
            failed.set()
        finally:
            link.close()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return errors


def inference_on(folder: Path, model: Path, **options: Any) -> Callable[[Link], None]:
    """The command on a host whose output would be in a folder of its own."""
    folder.mkdir(exist_ok=True)
    options = {"input": folder.parent / "in.csv", "batch_size": 2, "max_new_tokens": 4, **options}
    settings = InferenceSettings(output=folder / "out.csv", model_name=str(model), num_workers=1, **options)
    return lambda link: run_module._inference(settings, link.peer, link)


def test_rows_of_a_host_without_the_folder_come_to_rank_0(folder: Path, model: Path, caplog):
    make_table(folder, 30)
    (folder / "clips/5.wav").unlink()
    predict(folder, model, output=folder / "whole.csv", batch_size=2)
    with caplog.at_level("INFO"):
        errors = together(inference_on(folder / "a", model), inference_on(folder / "b", model))
    assert errors == [None, None]
    assert (folder / "a/out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert os.listdir(folder / "a") == ["out.csv"] and os.listdir(folder / "b") == []
    told = "\n".join(record.getMessage() for record in caplog.records if getattr(record, "everywhere", False))
    assert "one of 2 processes; the output is written by rank 0 (host node-a)" in told
    assert f"had 12 rows; {folder}/a/out.csv is on host node-a" in told


def test_a_shared_folder_is_used_as_one(folder: Path, model: Path):
    make_table(folder, 30)
    predict(folder, model, output=folder / "whole.csv", batch_size=2)
    errors = together(*[inference_on(folder / "both", model)] * 2)
    assert errors == [None, None]
    assert (folder / "both/out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert os.listdir(folder / "both") == ["out.csv"]


def test_what_was_done_before_is_not_done_again_on_any_host(
    folder: Path, model: Path, monkeypatch, interrupted_after
):
    make_table(folder, 30)
    whole = predict(folder, model, output=folder / "whole.csv", batch_size=1)
    (folder / "a").mkdir()
    with interrupted_after(19):
        predict(folder, model, output=folder / "a/out.csv", batch_size=1)
    asked: list[int] = []
    watch_rows(monkeypatch, lambda prompt: asked.append(prompt.key))
    hosts = [inference_on(folder / name, model, batch_size=1) for name in "ab"]
    assert together(*hosts) == [None, None]
    assert sorted(asked) == list(range(16, 30)), "two windows of eight rows were done"
    assert len(whole) == 30 and (folder / "a/out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_new_tokens": 6}, r"with --max-new-tokens 6, rank 0 \(host node-a\) with --max-new-tokens 4;"),
        (
            {"seed": 7, "max_length": 99},
            r"--max-length 99, --seed 7, rank 0 .+ with no --max-length",
        ),
        ({"system_prompt": "Listen."}, r"system prompt Listen\."),
    ],
)
def test_hosts_with_other_options_are_refused_by_name(folder: Path, model: Path, options, told):
    make_table(folder)
    main, other = together(inference_on(folder / "a", model), inference_on(folder / "b", model, **options))
    assert isinstance(main, HostsDisagreeError) and main.exit_code == 2 and isinstance(other, PeerLostError)
    assert str(main).startswith("rank 1 (host node-b) was started with ")
    with pytest.raises(UserError, match=told):
        raise main
    assert os.listdir(folder / "a") == os.listdir(folder / "b") == []


def test_hosts_with_another_input_are_refused(folder: Path, model: Path):
    text = make_table(folder).read_text()
    (folder / "other.csv").write_text(text.replace("tone 3", "tone 4"))
    main, _ = together(
        inference_on(folder / "a", model), inference_on(folder / "b", model, input=folder / "other.csv")
    )
    assert str(main).startswith(
        "rank 1 (host node-b) was started with another input than rank 0 (host node-a);"
    )


def test_paths_may_differ_from_host_to_host(folder: Path, model: Path):
    make_table(folder)
    for name in "ab":
        copytree(folder / "clips", folder / f"data-{name}/clips")
    hosts = [inference_on(folder / name, model, base_dir=folder / f"data-{name}") for name in "ab"]
    assert together(*hosts) == [None, None]
    assert "error" not in (folder / "a/out.csv").read_text().splitlines()[0].split(",")


def test_unfinished_work_on_the_wrong_host_is_told(folder: Path, model: Path, interrupted_after):
    make_table(folder)
    (folder / "b").mkdir()
    with interrupted_after(5):
        predict(folder, model, output=folder / "b/out.csv", batch_size=2)
    main, _ = together(*[inference_on(folder / name, model) for name in "ab"])
    assert isinstance(main, HostsDisagreeError)
    assert f"rank 1 (host node-b) has unfinished work of this command ({folder}/b/out.csv.partial)" in str(
        main
    )
    assert "copy that folder to host node-a" in str(main)
    assert together(*[inference_on(folder / name, model, overwrite=True) for name in "ab"]) == [None, None]


def test_a_process_that_is_frozen_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Link, "_give_signs_of_life", lambda link: None)
    ended = threading.Event()

    def main(link: Link) -> None:
        try:
            link.hear("left/1", 1, "to end")
        finally:
            ended.set()

    error, _ = together(main, lambda _: ended.wait(60), patience=0.5)
    assert isinstance(error, PeerLostError) and error.exit_code == 3
    assert str(error).startswith("nothing was heard of rank 1 (host node-b) for ")


def test_a_process_that_lives_is_waited_for():
    heard = []

    def other(link: Link) -> None:
        threading.Event().wait(4.5)
        link.tell("left/1", "at last")

    assert together(lambda link: heard.append(link.hear("left/1", 1)), other, patience=2.0) == [None, None]
    assert heard == ["at last"]


def test_a_full_disk_of_rank_0_is_told_where_another_host_has_the_rows(
    folder: Path, model: Path, monkeypatch
):
    make_table(folder, 30)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sent_module, "append_whole", full)
    main, other = together(*[inference_on(folder / name, model) for name in "ab"])
    assert isinstance(main, MdlError) and isinstance(other, PeerLostError)
    assert f"{folder}/a/out.csv.partial/rank-1.jsonl: can't be written: No space left on device" in str(main)


def test_silence_in_a_shared_folder_is_a_lost_process_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "NO_NEWS_SECONDS", 0.0)
    with pytest.raises(PeerLostError, match=r"rank 1.*nothing was heard of them"):
        waiting.until(lambda: False, lambda: ["rank 1"], "to answer")
