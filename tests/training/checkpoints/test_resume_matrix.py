"""Every way to train: gone on with from what a kill leaves, it ends as if it had been left alone."""

from __future__ import annotations

import importlib.util
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from mdl_toolkit.training.run import train
from support.models.tiny import make_model_folder
from support.processes.ranks import start_ranks
from support.training import resumed
from support.training.resumed import whole_and_resumed
from support.training.runs import assert_same_bytes, make_dataset, steps_of

_TARGETS = {
    "parts": ["encoder", "projector", "decoder"],
    "all": ["encoder", "projector", "decoder", "embed_tokens", "lm_head"],
    "head": ["decoder", "lm_head"],
    "embeddings": ["embed_tokens"],
}
_ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True, "lora_attention": True},
    "dora": {"dora": True},
    "dora-rslora": {"dora": True, "rslora": True, "lora_attention": True},
    "full": {"method": "full"},
}
_QUANTISED = ("plain", "8bit", "4bit")
_TIED = ("untied", "tied")


def _cases(*further: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Adapter, targets, tied, and further choices: all that go together."""
    return [
        case
        for case in product(_ADAPTERS, _TARGETS, _TIED, *further)
        # Quantised weights stay frozen, and without adapters all kinds of them are alike.
        if not (case[0] == "full" and {"8bit", "4bit"} & set(case))
        and (case[1] != "embeddings" or case[0] in ("lora", "full"))
    ]


#: The two kinds of sharding differ in when weights are gathered, not in what is saved: they take turns.
_SHARDED = [(*case, ("optimizer", "full")[(place + place // 2) % 2]) for place, case in enumerate(_cases())]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A model and its data, with a head of its own and with one that the embeddings share."""
    root = tmp_path_factory.mktemp("material")
    made = {}
    for kind, decoder in (("untied", "qwen2"), ("tied", "qwen3")):
        model = make_model_folder(root / kind, decoder=decoder, tie=kind == "tied")
        made[kind] = (model, make_dataset(root / f"{kind}-data", model, rows=9, seconds=(0.1, 0.3)))
    return made


def _numbers(output: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("memory", "seconds")} for line in steps_of(output)]


@pytest.mark.parametrize(("adapter", "targets", "tied", "quantised"), _cases(_QUANTISED))
def test_it_ends_with_the_same_bytes(
    material: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    adapter: str,
    targets: str,
    tied: str,
    quantised: str,
) -> None:
    options = {**_ADAPTERS[adapter], "train_target": _TARGETS[targets]}
    if quantised != "plain":
        if importlib.util.find_spec("bitsandbytes") is None:
            pytest.skip("bitsandbytes is not installed")
        options["quantization"] = quantised
    whole_and_resumed(train, *material[tied], tmp_path, options)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert _numbers(resumed) == _numbers(whole)
    assert_same_bytes(resumed / "final", whole / "final")
    for name in ("optimizer.safetensors", "run_state.json"):
        left, right = (folder / "checkpoint-3" / name for folder in (whole, resumed))
        if name.endswith(".json"):
            states = [json.loads(path.read_text()) for path in (left, right)]
            assert states[0]["counts"] == states[1]["counts"]
        else:
            assert left.read_bytes() == right.read_bytes()


@pytest.fixture(scope="module")
def sharded(
    material: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], Path]:
    """All sharded cases, made by two processes that are started once."""
    root = tmp_path_factory.mktemp("sharded")
    asked = {}
    for case in _SHARDED:
        adapter, targets, tied, sharding = case
        model, data = material[tied]
        options = {**_ADAPTERS[adapter], "train_target": _TARGETS[targets], "sharding": sharding}
        asked["_".join(case)] = {
            "model": str(model), "data": str(data), "options": {**options, "batch_size": 2}
        }  # fmt: skip
    (root / "cases.json").write_text(json.dumps(asked))
    ended = start_ranks([resumed.__file__, str(root / "cases.json"), str(root)], 2)
    assert not any(code for code, _ in ended), "\n".join(output for code, output in ended if code)
    return {case: root / "_".join(case) for case in _SHARDED}


@pytest.mark.system
@pytest.mark.parametrize("case", _SHARDED, ids="-".join)
def test_two_processes_that_share_the_model_go_on_too(
    sharded: dict[tuple[str, ...], Path], case: tuple[str, ...]
) -> None:
    whole, resumed = sharded[case] / "whole", sharded[case] / "resumed"
    ours, theirs = _numbers(resumed), _numbers(whole)
    assert [line["step"] for line in ours] == [1, 2, 3] == [line["step"] for line in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        assert mine["learning_rate"] == its["learning_rate"]
        np.testing.assert_allclose(mine["loss"], its["loss"], rtol=1e-6)
    for name in ("final", "checkpoint-3"):
        (path,) = (
            file for file in (whole / name).glob("*.safetensors") if file.name != "optimizer.safetensors"
        )
        first, second = load_file(path), load_file(resumed / name / path.name)
        assert first.keys() == second.keys()
        for tensor in first:
            np.testing.assert_allclose(
                first[tensor].numpy(), second[tensor].numpy(), rtol=1e-5, atol=1e-6, err_msg=tensor
            )
