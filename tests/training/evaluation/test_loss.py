"""Every row of the evaluation data counts once, whatever the number of processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.training.batches.loader import MicroBatches
from mdl_toolkit.training.evaluation.evaluation import Evaluation, SetMeasures
from mdl_toolkit.training.evaluation.loss import LossOfSet, evaluation_batches, share_of
from support.training.runs import make_dataset

CPU = torch.device("cpu")


def token_id(shop) -> int:
    return ClipDataset.open([shop.data]).manifest.audio_token_id


@pytest.mark.parametrize("max_tokens", [None, 100])
@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_evaluation_batches_cover_every_row_once(max_tokens: int | None, world_size: int):
    tokens = np.random.default_rng(0).integers(10, 90, 37)
    rows: Any = SimpleNamespace(tokens=tokens, supervised=tokens)
    batches = evaluation_batches(rows, 4, max_tokens)
    shares = [share_of(batches, rank, world_size) for rank in range(world_size)]
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(37))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for batch in batches:
        assert len(batch) <= 4 if max_tokens is None else tokens[list(batch)].sum() <= max_tokens


def test_evaluation_makes_the_same_number_of_passes_where_it_must(shop, tmp_path: Path):
    data = ClipDataset.open([make_dataset(tmp_path / "d", shop.model, rows=5)])
    totals, passes = [], []
    for rank in range(3):
        ranks: Any = SimpleNamespace(rank=rank, world_size=3, sum=lambda values: values, any=bool)
        load = MicroBatches([tmp_path / "d"], token_id(shop), CPU, 0)
        seen: list[tuple[int, ...]] = []
        model = torch.nn.Linear(1, 1)

        def loss_sum(batch: Any, seen: Any = seen, model: Any = model) -> torch.Tensor:
            assert not model.training
            seen.append(batch.indices)
            return torch.tensor(float(len(batch.targets)))

        wrapped: Any = SimpleNamespace(lockstep=True, model=model, loss_sum=loss_sum)
        evaluation = Evaluation([SetMeasures("main", False, 5, LossOfSet(data, load, ranks, batch_size=1))])
        totals.append(evaluation(wrapped)["eval_loss"])
        passes.append(len(seen))
        assert model.training
    assert passes == [2, 2, 2], "5 batches on 3 processes: one makes a pass that counts for nothing"
    assert sum(totals) == pytest.approx(1.0)
