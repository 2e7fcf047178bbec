"""Whether what a run writes has room is known before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.training.checkpoints import disk
from mdl_toolkit.training.checkpoints.disk import Need, check_disk, needed
from mdl_toolkit.training.ready import make_ready
from mdl_toolkit.training.run import train
from support.training.runs import run_settings

MIB = 2**20


def size_of(folder: Path) -> int:
    """Bytes of the tensors: in small models the files' headers are as large."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as stream:
            total += path.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")
    return total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"merge_lora": False},
        {"dora": True, "lora_attention": True, "train_target": ["decoder", "projector"]},
        {"train_target": ["encoder", "lm_head"]},
        {"method": "full"},
        {"method": "full", "final_dtype": "bfloat16"},
        {"method": "full", "train_target": ["decoder", "embed_tokens", "lm_head"]},
        {"metric_for_best": "loss", "eval_steps": 1},
        {"metric_for_best": "loss", "eval_steps": 1, "merge_lora": False},
    ],
)
def test_what_is_foretold_is_what_is_written(shop, tmp_path: Path, changes: dict[str, Any]):
    settings = run_settings(shop.model, shop.data, tmp_path / "out", max_steps=2, save_steps=1, **changes)
    settings.eval_dataset = str(shop.held_out) if settings.metric_for_best else None
    need = needed(settings, Launch(), shop.model, ClipDataset.open([shop.data]))
    train(settings)
    assert need is not None and need.kept == len(list(settings.output.glob("checkpoint-*"))) == 2
    assert need.checkpoint == pytest.approx(size_of(settings.output / "checkpoint-2"), rel=0.01)
    assert need.final == pytest.approx(size_of(settings.output / "final"), rel=0.03)
    if not settings.metric_for_best:
        assert need.best == 0
    else:  # and the adapter that it was, or its successor, beside it
        kept = need.checkpoint / 3
        assert need.best == pytest.approx(size_of(settings.output / "best") + kept, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "launch", "kept"),
    [
        ({"save_steps": 1}, Launch(), 6),  # 24 rows in batches of 4
        ({"save_steps": 4}, Launch(), 2),  # and at the end
        ({"save_steps": 0.5}, Launch(), 2),
        ({"save_steps": 1, "save_total_limit": 3}, Launch(), 4),
        ({"save_steps": 1, "num_epochs": 0.5}, Launch(), 3),
        ({"save_steps": 1, "gradient_accumulation_steps": 3}, Launch(world_size=2), 1),
        ({"save_steps": 10, "max_steps": 25}, Launch(), 3),
    ],
)
def test_checkpoints_on_the_disk_at_one_time(shop, tmp_path: Path, changes: Any, launch: Launch, kept: int):
    settings = run_settings(shop.model, shop.data, tmp_path, **changes)
    need = needed(settings, launch, shop.model, ClipDataset.open([shop.data]))
    assert need is not None and need.kept == kept


@pytest.fixture
def need(monkeypatch: pytest.MonkeyPatch):
    """A run of 5 checkpoints of 2 MiB and a final/ of 3 MiB, with so much free space."""

    def make(free: int | None) -> None:
        monkeypatch.setattr(disk, "needed", lambda *_: Need(2 * MIB, 3 * MIB, 5))
        monkeypatch.setattr(disk, "free_bytes", lambda _: free)

    return make


def test_a_disk_without_room_is_refused(shop, tmp_path: Path, need):
    need(4 * MIB)
    settings = run_settings(shop.model, shop.data, tmp_path / "out")
    with pytest.raises(SettingsError) as caught:
        make_ready(settings)
    said = str(caught.value)
    assert f"--output {tmp_path / 'out'}: 4.0 MiB are free there" in said
    assert "a checkpoint of 2.0 MiB and final/ of 3.0 MiB" in said


def test_what_best_needs_is_told_beside_the_rest(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk, "needed", lambda *_: Need(2 * MIB, 3 * MIB, 5, 4 * MIB))
    monkeypatch.setattr(disk, "free_bytes", lambda _: 8 * MIB)
    with pytest.raises(
        SettingsError, match=r"a checkpoint of 2.* and final/ of 3.* and best/ of 4.0 MiB are"
    ):
        make_ready(run_settings(shop.model, shop.data, tmp_path / "out"))


def test_a_finished_run_needs_room_for_its_final_alone(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As where the disk was full when ``final/`` was to be written."""
    output, data = tmp_path / "out", ClipDataset.open([shop.data])
    changes: dict[str, Any] = {"max_steps": 4, "save_steps": 1}
    train(run_settings(shop.model, shop.data, output, **changes))
    settings = run_settings(shop.model, shop.data, output, resume_from_checkpoint="true", **changes)
    need = needed(settings, Launch(), shop.model, data)
    assert need is not None and need.kept == 0
    monkeypatch.setattr(disk, "free_bytes", lambda _: need.final)
    check_disk(settings, Launch(), shop.model, data)
    monkeypatch.setattr(disk, "free_bytes", lambda _: need.final - 1)
    with pytest.raises(SettingsError, match=r"are free there, and final/ of \S+ MiB is to be written"):
        check_disk(settings, Launch(), shop.model, data)
    settings = run_settings(
        shop.model, shop.data, output, resume_from_checkpoint=str(output / "checkpoint-3"), **changes
    )
    need = needed(settings, Launch(), shop.model, data)
    assert need is not None and need.kept == 1


def test_what_overwriting_removes_is_room(shop, tmp_path: Path, need):
    need(4 * MIB)
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "model.safetensors").write_bytes(bytes(2 * MIB))
    settings = run_settings(shop.model, shop.data, tmp_path, overwrite=True)
    check_disk(settings, Launch(), shop.model, ClipDataset.open([shop.data]))


def test_a_disk_that_fills_up_later_is_warned_of(
    shop, tmp_path: Path, need, capsys: pytest.CaptureFixture[str]
):
    data = ClipDataset.open([shop.data])
    settings = run_settings(shop.model, shop.data, tmp_path)
    for free, said in ((12 * MIB, True), (13 * MIB, False), (None, False)):
        need(free)
        check_disk(settings, Launch(), shop.model, data)
        assert (
            "5 checkpoints of 2.0 MiB and final/ of 3.0 MiB need 13.0 MiB" in capsys.readouterr().err
        ) is said


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, b"\x02" + bytes(7) + b"[]", None])
def test_weights_that_do_not_tell_are_left_to_whoever_loads_them(shop, tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    settings = run_settings(tmp_path, shop.data, tmp_path / "out")
    assert needed(settings, Launch(), tmp_path, ClipDataset.open([shop.data])) is None
