"""Names of tensors: each that a model, PEFT or torch.compile makes comes back as the published one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mdl_toolkit
from mdl_toolkit.model.midashenglm import RECOMPUTED_TENSORS
from mdl_toolkit.model_folders.names import (
    FRONT_END_CONSTANTS,
    adapted_layers,
    is_front_end,
    part_of,
    parts_in_full,
    published_name,
    split_adapter,
    tied_twins,
)
from mdl_toolkit.settings import TRAIN_TARGETS

GATE = "decoder.model.layers.1.mlp.gate_proj"


@pytest.mark.parametrize(
    ("name", "published"),
    [
        (f"{GATE}.weight", f"{GATE}.weight"),
        (f"{GATE}.base_layer.weight", f"{GATE}.weight"),
        (f"base_model.model.{GATE}.base_layer.weight", f"{GATE}.weight"),
        ("decoder.model.layers.1._orig_mod.mlp.gate_proj.lora_A.default.weight", f"{GATE}.lora_A.weight"),
        (f"{GATE}.lora_magnitude_vector.default.weight", f"{GATE}.lora_magnitude_vector"),
        ("decoder.lm_head.modules_to_save.default.weight", "decoder.lm_head.weight"),
    ],
)
def test_levels_of_wrappers_are_taken_out(name: str, published: str) -> None:
    assert published_name(name) == published


def test_an_adapter_s_tensor_is_split_into_module_and_part() -> None:
    assert split_adapter(f"{GATE}.lora_B.weight") == (GATE, "lora_B")
    assert split_adapter(f"{GATE}.lora_magnitude_vector") == (GATE, "lora_magnitude_vector")
    assert split_adapter(f"{GATE}.lora_magnitude_vector.weight") == (GATE, "lora_magnitude_vector")
    assert split_adapter(f"{GATE}.weight") is None


def test_every_tensor_belongs_to_a_part_that_can_be_trained() -> None:
    names = [
        "audio_encoder.blocks.0.attn.qkv.weight",
        "audio_projector.net.0.weight",
        f"{GATE}.lora_A.weight",
    ]
    names += tied_twins("decoder.lm_head.weight")
    assert [part_of(name) for name in names] == list(TRAIN_TARGETS)
    assert tied_twins(f"{GATE}.weight") == (f"{GATE}.weight",)


def test_the_front_end_has_what_the_model_recomputes() -> None:
    assert all(is_front_end(name) and re.match(RECOMPUTED_TENSORS, name) for name in FRONT_END_CONSTANTS)
    assert is_front_end("audio_encoder.init_bn.weight")
    assert not is_front_end("audio_encoder.blocks.0.norm1.weight")


def test_adapters_are_for_linear_layers_and_the_rest_is_trained_in_full() -> None:
    pattern = adapted_layers(["projector", "decoder", "lm_head"], attention=True) or ""
    for name in ("audio_projector.net.2", GATE, "decoder.model.layers.0.self_attn.q_proj"):
        assert re.fullmatch(pattern, name)
    assert not re.fullmatch(pattern, "decoder.lm_head")
    without = adapted_layers(["decoder"], attention=False) or ""
    assert re.fullmatch(without, GATE)
    assert not re.fullmatch(without, "decoder.model.layers.0.self_attn.q_proj")
    assert adapted_layers(["lm_head"], attention=True) is None
    assert parts_in_full(["decoder", "lm_head"], adapters=True, tied=False) == {"lm_head"}
    assert parts_in_full(["decoder", "lm_head"], adapters=True, tied=True) == {"lm_head", "embed_tokens"}
    assert parts_in_full(["encoder"], adapters=False, tied=True) == {"encoder"}


PACKAGE = Path(mdl_toolkit.__file__).parent
#: Files that may spell what tensors are called: the home of names, and the model, whose modules make them.
SPELLING = {PACKAGE / "model_folders" / "names.py", PACKAGE / "model" / "midashenglm.py"}
SPELLED = re.compile(
    r"audio_encoder\\?\.|audio_projector\\?\.|decoder\\?\.(model|lm_head)|\.lora_|base_model\.model|_orig_mod"
)


def _strings(path: Path) -> set[str]:
    """String constants of a file, without its documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str) and id(node) not in documentation}


def test_no_other_file_spells_the_name_of_a_tensor() -> None:
    files = set(PACKAGE.rglob("*.py")) - SPELLING
    found = {str(path.relative_to(PACKAGE)): set(filter(SPELLED.search, _strings(path))) for path in files}
    assert not {name: strings for name, strings in found.items() if strings}
    assert any(SPELLED.search(string) for path in SPELLING for string in _strings(path))
