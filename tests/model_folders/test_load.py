"""Loading: names, shapes and dtypes strictly, attacks refused, quantised decoders, memory held once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model import MiDashengLMModel
from mdl_toolkit.model.kernels.linear import is_plain
from mdl_toolkit.model_folders.export import export_merged
from mdl_toolkit.model_folders.load import build_empty, load_config, load_model
from mdl_toolkit.model_folders.manifest import BaseRecord, ModelManifest
from mdl_toolkit.model_folders.names import is_tied
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.trained import TrainedWeights
from support.models.tiny import make_model_folder, tiny_config

HEAD, EMBEDDINGS = "decoder.lm_head.weight", "decoder.model.embed_tokens.weight"


def _change(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (``None``) remove tensors of a folder; double underscores stand for dots."""
    # Copies: these are the mapped file, which older versions write over in place.
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


def _error(folder: Path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, **options)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(("decoder", "tie"), [("qwen2", False), ("qwen3", False), ("qwen3", True)])
def test_a_model_is_what_its_files_say(tmp_path: Path, decoder: str, tie: bool):
    folder = make_model_folder(tmp_path / "m", decoder=decoder, tie=tie)
    model = load_model(folder)
    stored = load_file(folder / "model.safetensors")
    state = model.state_dict()
    for name, tensor in stored.items():
        if "front_end" not in name:
            assert torch.equal(state[name], tensor), name
    assert not model.training and not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tie
    rotary = model.decoder.model.rotary_emb
    fresh = type(rotary)(model.config.text_config)
    assert torch.equal(rotary.inv_freq, fresh.inv_freq)


def test_a_tied_model_may_carry_its_head_too(tmp_path: Path):
    folder = make_model_folder(tmp_path / "m", tie=True)
    embeddings = load_file(folder / "model.safetensors")[EMBEDDINGS].clone()
    _change(folder, decoder__lm_head__weight=embeddings + 1)
    model: Any = load_model(folder)
    assert torch.equal(model.get_output_embeddings().weight, embeddings)


@pytest.mark.parametrize(
    ("top", "decoder", "tied"),
    [
        (True, None, True), (True, "null", True), (False, None, False), (None, True, True),
        (True, False, False), (False, True, True), (None, None, False),
    ],
)  # fmt: skip
def test_a_head_is_tied_wherever_the_config_says_so(
    tmp_path: Path, top: bool | None, decoder: bool | str | None, tied: bool
) -> None:
    folder = make_model_folder(tmp_path / "m", decoder="qwen3", tie=tied)
    fields = json.loads((folder / "config.json").read_text())
    del fields["text_config"]["tie_word_embeddings"]
    if decoder is not None:
        fields["text_config"]["tie_word_embeddings"] = None if decoder == "null" else decoder
    if top is not None:
        fields["tie_word_embeddings"] = top
    (folder / "config.json").write_text(json.dumps(fields))
    for load in (load_model, MiDashengLMModel.from_pretrained):
        model: Any = load(folder)
        assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
        assert is_tied(model.config) == tied
    model.save_pretrained(tmp_path / "again")
    assert (
        json.loads((tmp_path / "again" / "config.json").read_text())["text_config"] == fields["text_config"]
    )
    again: Any = MiDashengLMModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again.get_output_embeddings().weight, model.get_output_embeddings().weight)
    trained = torch.ones(model.get_input_embeddings().weight.shape)
    manifest = ModelManifest(kind="model", base=BaseRecord.of("base", folder))
    export_merged(folder, TrainedWeights({}, {}, {EMBEDDINGS: trained}), tmp_path / "out", manifest)
    merged = load_model(tmp_path / "out")
    assert bool((merged.get_output_embeddings().weight == 1).all()) == tied


def test_dtypes(tmp_path: Path):
    folder = make_model_folder(tmp_path / "m")
    assert load_model(folder).dtype == torch.float32, "what most of the file is"
    model = load_model(folder, dtype=torch.bfloat16)
    kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    normaliser = {name: kind for name, kind in kinds.items() if "init_bn" in name}
    assert normaliser.pop("audio_encoder.init_bn.num_batches_tracked") == torch.int64
    assert set(normaliser.values()) == {torch.float32}, "the front end stays in float32"
    assert {kind for name, kind in kinds.items() if "init_bn" not in name} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_weights_of_the_wanted_dtype_are_the_mapped_file(tmp_path: Path):
    folder = make_model_folder(tmp_path / "m")
    model = load_model(folder)
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(str(folder / "model.safetensors")) > 20
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (folder / "model.safetensors").read_bytes() == before


def test_the_empty_model_takes_no_storage(tmp_path: Path):
    folder = make_model_folder(tmp_path / "m")
    model = build_empty(folder, torch.bfloat16)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.decoder.lm_head.weight.dtype == torch.bfloat16
    assert model.audio_encoder.init_bn.weight.dtype == torch.float32


def test_names_and_shapes_are_strict(tmp_path: Path):
    folder = make_model_folder(tmp_path / "m")
    _change(
        folder,
        audio_encoder__norm__weight=None,
        audio_encoder__blocks__7__norm1__weight=torch.zeros(3),
        audio_projector__net__2__bias=torch.zeros(5),
    )
    text = _error(folder)
    assert "missing tensors: audio_encoder.norm.weight" in text
    assert "unexpected tensors: audio_encoder.blocks.7.norm1.weight" in text
    assert "audio_projector.net.2.bias [5] instead of [32]" in text


def test_other_tensors_of_the_front_end_are_not_waved_through(tmp_path: Path):
    folder = make_model_folder(tmp_path / "m")
    _change(folder, audio_encoder__front_end__1__other=torch.zeros(1))
    assert "unexpected tensors: audio_encoder.front_end.1.other" in _error(folder)


def test_without_the_recomputed_constants(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = make_model_folder(tmp_path / "m")
    load_model(folder)
    names = [name for name in load_file(folder / "model.safetensors") if "front_end" in name]
    _change(folder, **{name.replace(".", "__"): None for name in names})
    load_model(folder)
    assert len(names) == 2 and capsys.readouterr().err == ""


def test_code_and_pickles_of_a_folder_are_left_alone(tmp_path: Path):
    """Poisoned files lie in the folder; whoever runs or opens one leaves a trace."""
    folder, trace = make_model_folder(tmp_path / "m"), tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').write('run')\n"
    for name in ("modeling_midashenglm", "configuration_midashenglm", "processing_midashenglm", "__init__"):
        (folder / f"{name}.py").write_text(code)
    pickle = b"cbuiltins\nexec\n(V" + code.strip().encode() + b"\ntR."
    for name in ("training_args.bin", "pytorch_model.bin", "rng_state.pth", "optimizer.pt", "scheduler.pt"):
        (folder / name).write_bytes(pickle)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": f"{folder}--modeling_midashenglm.X"}, "trust_remote_code": True}
    config |= {"_attn_implementation": "../x", "quantization_config": {"quant_method": "bitsandbytes"}}
    config["text_config"] |= {"auto_map": {"AutoConfig": "modeling_midashenglm.X"}, "_name_or_path": "evil/x"}
    (folder / "config.json").write_text(json.dumps(config))
    script = (
        "import sys, torch, pickle, builtins\n"
        "def refuse(*a, **k): raise SystemExit('a pickle was opened')\n"
        "torch.load = pickle.load = pickle.loads = refuse\n"
        "from pathlib import Path\n"
        "from mdl_toolkit.model_folders.load import load_model\n"
        "from mdl_toolkit.data.prompt.builder import PromptBuilder\n"
        f"load_model(Path({str(folder)!r})); PromptBuilder(Path({str(folder)!r}))\n"
        "print('loaded')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "loaded", done.stderr
    assert not trace.exists()
    (folder / "model.safetensors").unlink()
    assert "never read" in _error(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no JSON"),
        ("[1]", "a mapping expected"),
        ("[" * 100_000, "nested too deeply"),
        ('{"model_type": "llama"}', "model_type is 'llama'"),
        ('{"model_type": "midashenglm"}', "text_config is missing"),
        ('{"model_type": "midashenglm", "text_config": 3}', "text_config is missing"),
    ],
)
def test_a_broken_config(tmp_path: Path, text: str, expected: str):
    folder = make_model_folder(tmp_path / "m")
    (folder / "config.json").write_text(text)
    assert expected in _error(folder)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("text_config", "num_hidden_layers", 10**9),
        ("text_config", "vocab_size", -1),
        ("text_config", "hidden_size", "32"),
        ("audio_encoder_config", "depth", 10**12),
        ("audio_encoder_config", "n_fft", 2**40),
    ],
)
def test_a_config_that_would_build_without_end(tmp_path: Path, part: str, field: str, value: object):
    folder = make_model_folder(tmp_path / "m")
    config = tiny_config()
    config[part][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    assert f"{part}.{field} is {value!r}; a number" in _error(folder)


def test_a_giant_config_is_not_read(tmp_path: Path):
    folder = make_model_folder(tmp_path / "m")
    with open(folder / "config.json", "wb") as stream:
        stream.truncate(2**33)
    assert "more than" in _error(folder)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("plain") / "m")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_a_config_says_it_is_a_model_or_a_model_error(plain: Path, data):
    config = tiny_config()
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from([None, "text_config", "audio_encoder_config"]))
        inner = None if part is None else config.get(part)
        section = inner if isinstance(inner, dict) and inner else config
        field = data.draw(st.sampled_from(sorted(section)))
        section[field] = data.draw(JSON)
    (plain / "config.json").write_text(json.dumps(config))
    try:
        load_config(plain)
        load_model(plain)
    except ModelError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def inputs() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(5, 1200, (2, 12), generator=generator),
        "attention_mask": torch.ones(2, 12, dtype=torch.long),
    }


@pytest.mark.parametrize(("quantization", "bound"), [("8bit", 0.05), ("4bit", 0.35)])
def test_a_quantised_decoder(tmp_path: Path, inputs: dict, quantization: Any, bound: float):
    import bitsandbytes as bnb

    folder = make_model_folder(tmp_path / "m")
    kind = bnb.nn.Linear8bitLt if quantization == "8bit" else bnb.nn.Linear4bit
    model = load_model(folder, dtype=torch.float32, quantization=quantization)
    plain = load_model(folder, dtype=torch.float32)
    swapped = {name for name, module in model.named_modules() if isinstance(module, kind)}
    expected = {
        name
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("decoder.model.")
    }
    assert swapped == expected and len(swapped) == 14, (
        "the decoder's blocks, and neither head nor audio parts"
    )
    assert all(not p.requires_grad for m in swapped for p in model.get_submodule(m).parameters())
    with torch.no_grad():
        found, wanted = model(**inputs).logits, plain(**inputs).logits
    error = ((found - wanted).norm() / wanted.norm()).item()
    assert 0 < error < bound, "some per cent of the weights' own error"


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_adapters_train_on_a_quantised_decoder(tmp_path: Path, inputs: dict, quantization: Any):
    from peft import LoraConfig, inject_adapter_in_model

    folder = make_model_folder(tmp_path / "m")
    model = load_model(folder, dtype=torch.float32, quantization=quantization)
    config = LoraConfig(
        r=4, target_modules=r"decoder\.model\.layers\.\d+\.mlp\.gate_proj", init_lora_weights=False
    )
    inject_adapter_in_model(config, model)
    layer = model.decoder.model.layers[0].mlp.gate_proj
    assert type(layer).__module__ == "peft.tuners.lora.bnb", "PEFT must know that its base is quantised"
    model.train()
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    gradient = layer.lora_A["default"].weight.grad
    assert gradient is not None and gradient.abs().sum() > 0
    base = layer.base_layer.weight
    assert base.grad is None and base.dtype in (torch.int8, torch.uint8)


def test_without_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):

    folder = make_model_folder(tmp_path / "m")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'mdl-toolkit[quantization]'" in _error(folder, quantization="4bit")


def test_rows_that_make_no_whole_blocks_stay_unquantised(tmp_path: Path, inputs: dict, capsys):
    folder = make_model_folder(tmp_path / "m", text_config={"intermediate_size": 72})
    model = load_model(folder, dtype=torch.float32, quantization="4bit")
    assert is_plain(model.decoder.model.layers[0].mlp.down_proj)
    assert "down_proj stays unquantised" in capsys.readouterr().err
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


def test_kernels_are_not_fetched_from_the_hub(tmp_path: Path):
    """Where the ``kernels`` package is there, importing bitsandbytes would load compiled code through it."""
    trace = tmp_path / "trace"
    (tmp_path / "kernels.py").write_text(
        f"def get_kernel(*a, **k):\n    open({str(trace)!r}, 'w').write('fetched')\n    raise RuntimeError\n"
    )
    folder = make_model_folder(tmp_path / "m")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from pathlib import Path\n"
        "from mdl_toolkit.model_folders.load import load_model\n"
        f"load_model(Path({str(folder)!r}), quantization='4bit')\n"
        "import kernels; print('kernels' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
    assert not trace.exists() and "kernels" not in done.stderr


def test_the_packaged_base_loads():
    from mdl_toolkit.hub import resolve_model

    folder = resolve_model("tiny")
    model = load_model(folder)
    assert sum(p.numel() for p in model.parameters()) > 1_000_000
    assert len(WeightFiles(folder)) == len(model.state_dict())


def test_threads_may_load_at_once(tmp_path: Path):
    """Building without storage switches off the library's initialisation for a moment; it must come back."""
    from concurrent.futures import ThreadPoolExecutor

    folder = make_model_folder(tmp_path / "m")
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(lambda _: load_model(folder), range(24)))
    assert all(not any(p.is_meta for p in model.parameters()) for model in models)
    again = make_model_folder(tmp_path / "again")
    assert WeightFiles(again).fingerprint() == WeightFiles(folder).fingerprint()
