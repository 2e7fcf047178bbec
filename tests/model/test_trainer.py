"""The model under the library's own Trainer, as other toolkits would train it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from support.data.rows import padded

SAMPLES = (3690, 6300, 9000, 12000)


def _train(case: Any, folder: Path, checkpointing: bool) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(case.folder)
    rows = [case.row(samples, seed=i) for i, samples in enumerate(SAMPLES)]
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, max_steps=2, learning_rate=1e-2, use_cpu=True,
        report_to=[], remove_unused_columns=False, save_strategy="no", disable_tqdm=True, seed=3,
        dataloader_pin_memory=False,
        **{_NAME: checkpointing},
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = Trainer(model, arguments, data_collator=padded, train_dataset=rows).train()
    assert result.training_loss > 0
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    return {name: p.detach() for name, p in model.named_parameters()}


#: ``activation_checkpointing`` since transformers 5.24.
_NAME = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)


@pytest.mark.filterwarnings("ignore")
def test_the_librarys_trainer_trains_it_with_and_without_recomputation(tiny, tmp_path: Path):
    kept = _train(tiny(), tmp_path, False)
    again = _train(tiny(), tmp_path, True)
    assert all(torch.allclose(again[name], tensor, atol=1e-5) for name, tensor in kept.items())
