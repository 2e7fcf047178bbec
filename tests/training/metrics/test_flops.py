"""Model FLOPs against torch's own count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mdl_toolkit.data.batching.balance import count_patches
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.training.metrics.flops import FlopCounter
from mdl_toolkit.training.trainable.adapters import make_trainable, trainable_parameters
from support.models.batches import collate
from support.training.runs import run_settings


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough layers that what the first ones save (nothing is below them to get a gradient) hardly counts."""
    from support.models.tiny import make_model_folder

    folder = tmp_path_factory.mktemp("deep") / "model"
    return make_model_folder(
        folder, audio_encoder_config={"depth": 12}, text_config={"num_hidden_layers": 12}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_rank": 4},
        {"train_target": ["decoder"]},
        {"train_target": ["projector", "lm_head"]},
        {"method": "full"},
        {"method": "full", "train_target": ["encoder"]},
    ],
)
def test_model_flops_are_what_the_passes_do(
    shop, deep: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Against torch's own count of matrix products. Attention is left out: torch counts it without masks."""
    from mdl_toolkit.model.kernels import linear
    from mdl_toolkit.model_folders.load import load_model

    monkeypatch.setattr(linear, "onednn_is_faster", lambda: False)  # torch doesn't count oneDNN's
    model = load_model(deep)
    make_trainable(model, run_settings(deep, shop.data, Path("unused"), **changes))
    data, rows = ClipDataset.open([shop.data]), list(range(6))
    batch = collate([data[i] for i in rows], model.config.audio_token_id)
    # Of those in place torch knows no formula.
    in_place = {torch.ops.aten.addmm_: lambda result, a, b, **_: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, depth=4, custom_mapping=in_place) as counted:
        model(**batch.model_inputs()).loss_sum.backward()
    products = {
        name: sum(count for operation, count in counts.items() if "mm" in str(operation))
        for name, counts in counted.get_flop_counts().items()
    }
    # The front end's Fourier transform and mel filters are no model FLOPs.
    theirs = products["Global"] - products["MiDashengLMModel.audio_encoder.front_end"]
    counter = FlopCounter(model.config, trainable_parameters(model), data.geometry)
    counter._encoder_attention = counter._decoder_attention = 0
    ours = counter.step(data.tokens[rows], data.samples[rows], int(data.supervised[rows].sum()))
    assert ours == pytest.approx(theirs, rel=0.05)


def test_padding_of_the_attention_is_no_model_flop(shop):
    data = ClipDataset.open([shop.data])
    samples = np.array([100, 3200, 16000, 161280, 200000])
    patches, pairs = count_patches(samples, data.geometry)
    assert patches.tolist() == [data.geometry.patches(n) for n in samples.tolist()]
    chunks = [data.geometry.chunks(n) for n in samples.tolist()]
    assert pairs.tolist() == [sum(count**2 for count, _ in of_clip) for of_clip in chunks]
