"""Each process reads its own share of the files, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor, Replicate, Shard

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.distributed.sharding import local_bytes, own_rows
from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.load import build_empty, load_model
from mdl_toolkit.model_folders.names import published_name
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable.adapters import initialise_adapters, make_trainable
from mdl_toolkit.training.trainable.prepare import load_shards, prepare, shard
from support.models.tiny import make_model_folder

CPU = torch.device("cpu")
WORLD = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("sharding") / "base")


def options(**changes: Any) -> TrainSettings:
    return TrainSettings(
        **{"train_dataset": "data", "output": Path("run"), "sharding": "full", "lora_rank": 4, **changes}
    )


def sharded_model(folder: Path, rank: int, local: int = WORLD, **changes: Any) -> Any:
    settings = options(**changes)
    ranks = Ranks(Launch(rank=rank, world_size=WORLD, local_rank=rank, local_world_size=local), CPU)
    model = build_empty(folder, torch.float32)
    make_trainable(model, settings)
    shard(model, settings, ranks, torch.float32)
    return model


@pytest.mark.parametrize("process_of_four", range(WORLD), indirect=True)
def test_a_process_holds_and_reads_its_own_rows_alone(process_of_four: int, folder: Path) -> None:
    rank = process_of_four
    model = sharded_model(folder, rank)
    read = load_shards(model, folder, CPU)
    initialise_adapters(model, 0)
    reference = load_model(folder, dtype=torch.float32)
    make_trainable(reference, options(seed=0))
    whole = dict(reference.named_parameters())
    size = WeightFiles(folder)
    total = sum(size[name].bytes for name in size if "front_end" not in name)
    assert read <= total / WORLD * 1.25
    assert (
        sum(local_bytes(p) for p in model.parameters())
        <= sum(map(local_bytes, whole.values())) / WORLD * 1.25
    )
    for name, parameter in model.named_parameters():
        if "init_bn" in name:
            assert torch.equal(parameter, whole[name])
            continue
        chunks = whole[name].chunk(WORLD)
        mine = chunks[rank] if rank < len(chunks) else whole[name][:0]
        assert torch.equal(parameter.to_local(), mine), published_name(name)


def test_nothing_is_left_without_storage(process_of_four: int, folder: Path) -> None:
    model = sharded_model(folder, 0, dora=True, train_target=["encoder", "decoder", "lm_head"])
    load_shards(model, folder, CPU)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    statistics = WeightFiles(folder).tensor("audio_encoder.init_bn.running_mean")
    assert torch.equal(model.audio_encoder.init_bn.running_mean, statistics)
    assert not isinstance(model.audio_encoder.init_bn.weight, DTensor)


@pytest.mark.parametrize("process_of_four", [1], indirect=True)
def test_hybrid_splits_within_a_machine(process_of_four: int, folder: Path) -> None:
    model = sharded_model(folder, 1, local=2, sharding="hybrid")
    weight = model.decoder.model.layers[0].mlp.up_proj.base_layer.weight
    assert weight.placements == (Replicate(), Shard(0))
    assert own_rows(weight) == (32, 64)


def test_tied_weights_stay_one_tensor(process_of_four: int, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "tied", tie=True)
    model = sharded_model(folder, 0, train_target=["encoder", "lm_head"])
    load_shards(model, folder, CPU)
    assert model.decoder.lm_head.weight is model.decoder.model.embed_tokens.weight


def test_a_wrong_file_is_named_before_anything_is_sharded(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "base")
    config = (
        (folder / "config.json").read_text().replace('"intermediate_size": 64', '"intermediate_size": 96')
    )
    (folder / "config.json").write_text(config)
    ranks = Ranks(Launch(rank=0, world_size=WORLD, local_world_size=WORLD), CPU)
    with pytest.raises(ModelError, match=r"gate_proj.*\[64, 32\] instead of \[96, 32\]"):
        prepare(folder, options(), ranks)
