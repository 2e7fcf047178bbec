"""A training's adapters under PEFT's own methods: what these make of a layer is what it computes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
from mdl_toolkit.model.kernels.linear import lay_out
from mdl_toolkit.model_folders.names import ADAPTER
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable.adapters import lora_config, make_trainable
from support.models.batches import random_batch
from support.models.tiny import tiny_config

pytestmark = pytest.mark.usefixtures("always_onednn")


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(train_dataset="data", output=Path("run"), lora_rank=4, **changes)


def base() -> MiDashengLMModel:
    torch.manual_seed(0)
    return MiDashengLMModel(MiDashengLMConfig(**tiny_config()))


def pair(dora: bool = False) -> tuple[Any, Any]:
    """The model as training has it, weights laid out, and PEFT's own with the same weights."""
    ours, theirs = base(), base()
    ours.use_own_layers()
    make_trainable(ours, settings(dora=dora))
    config = lora_config(settings(dora=dora))
    config.modules_to_save = None
    peft.inject_adapter_in_model(config, theirs)
    torch.manual_seed(1)
    for name, parameter in ours.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            nn.init.normal_(parameter, std=0.2)
    theirs.load_state_dict(ours.state_dict())
    assert lay_out(ours, 2**40, backward=True) > 0
    return ours.eval(), theirs.eval()


def layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def loss_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**random_batch(range(2)).model_inputs()).loss_sum


def each(action: Callable[[Any], Any]) -> Callable[[Any], None]:
    def act(model: Any) -> None:
        for layer in layers(model):
            action(layer)

    return act


def second_adapter(model: Any) -> None:
    config = peft.LoraConfig(r=2, target_modules=r".*net\.0", init_lora_weights=False)
    torch.manual_seed(2)
    peft.inject_adapter_in_model(config, model, adapter_name="other")


def select(*names: str) -> Callable[[Any], None]:
    return each(lambda layer: layer.set_adapter([name for name in names if name in layer.lora_A]))


STEPS: dict[str, list[Callable[[Any], None]]] = {
    "disable": [each(lambda layer: layer.enable_adapters(False))],
    "disable, enable": [
        each(lambda layer: layer.enable_adapters(False)),
        each(lambda layer: layer.enable_adapters(True)),
    ],
    "merge": [each(lambda layer: layer.merge())],
    "merge safely": [each(lambda layer: layer.merge(safe_merge=True))],
    "merge, unmerge": [each(lambda layer: layer.merge()), each(lambda layer: layer.unmerge())],
    "merge, disable": [each(lambda layer: layer.merge()), each(lambda layer: layer.enable_adapters(False))],
    "scale": [each(lambda layer: layer.set_scale(ADAPTER, 3.0))],
    "second adapter beside": [second_adapter, select(ADAPTER, "other")],
    "second adapter alone": [second_adapter, select("other")],
    "second adapter idle": [second_adapter, select(ADAPTER)],
    "delete": [each(lambda layer: layer.delete_adapter(ADAPTER))],
    "second for the first": [
        second_adapter,
        select(ADAPTER, "other"),
        each(lambda layer: layer.delete_adapter(ADAPTER)),
    ],
}


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_results_are_pefts(steps: list[Callable[[Any], None]], dora: bool) -> None:
    ours, theirs = pair(dora)
    start = loss_of(ours)
    torch.testing.assert_close(start, loss_of(theirs), rtol=1e-5, atol=1e-5)
    for step in steps:
        step(ours)
        step(theirs)
        found, wanted = loss_of(ours), loss_of(theirs)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    after = {name: tensor for name, tensor in theirs.state_dict().items() if "lora" not in name}
    for name, tensor in ours.state_dict().items():
        if name in after:
            torch.testing.assert_close(tensor, after[name], rtol=1e-5, atol=1e-5, msg=name)


def test_disabled_is_the_base_and_merged_is_not() -> None:
    ours, _ = pair()
    plain, adapted = loss_of(base().eval()), loss_of(ours)
    assert not torch.allclose(plain, adapted)
    each(lambda layer: layer.enable_adapters(False))(ours)
    torch.testing.assert_close(loss_of(ours), plain)
    each(lambda layer: layer.enable_adapters(True))(ours)
    each(lambda layer: layer.merge())(ours)
    torch.testing.assert_close(loss_of(ours), adapted)
    for layer in layers(ours):  # nothing but the base's own weights is in it now
        nn.init.zeros_(layer.lora_B[ADAPTER].weight)
    torch.testing.assert_close(loss_of(ours), adapted)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantised_layers_can_be_disabled(tmp_path: Path, quantization: Any) -> None:
    pytest.importorskip("bitsandbytes")
    from mdl_toolkit.model_folders.load import load_model
    from support.models.tiny import make_model_folder

    folder = make_model_folder(tmp_path / "base")
    plain = loss_of(load_model(folder, quantization=quantization))
    model = load_model(folder, quantization=quantization)
    make_trainable(model, settings())
    for layer in layers(model):
        nn.init.normal_(layer.lora_B[ADAPTER].weight, std=0.2)
    assert not torch.allclose(loss_of(model.eval()), plain)
    each(lambda layer: layer.enable_adapters(False))(model)
    torch.testing.assert_close(loss_of(model), plain)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_lean_too(way: str, dora: bool) -> None:
    ours, _ = pair(dora)
    other = copy.deepcopy(ours) if way == "deepcopy" else pickle.loads(pickle.dumps(ours))
    assert [type(layer) for layer in layers(other)] == [type(layer) for layer in layers(ours)]
    torch.testing.assert_close(loss_of(other), loss_of(ours))
    each(lambda layer: layer.merge())(other)
    each(lambda layer: layer.enable_adapters(False))(ours)
    assert not torch.allclose(loss_of(other), loss_of(ours))
