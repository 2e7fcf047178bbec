"""Names of models: local first, the cache without a network, and errors that say what to do next."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from mdl_toolkit.errors import ModelError
from mdl_toolkit.hub import resolve_model, revision_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Any attempt to reach the network fails the test; the cache is an empty one of the test's own."""
    import socket

    from huggingface_hub import constants

    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def _folder(path: Path, mark: str = "config.json") -> Path:
    path.mkdir(parents=True)
    (path / mark).write_text("{}")
    return path


def _cached(tmp_path: Path, name: str, files: dict[str, str], ref: str = "main") -> Path:
    repo = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / ref).write_text(COMMIT)
    for file, text in files.items():
        (snapshot / file).write_text(text)
    return snapshot


def test_tiny_ships_with_the_package():
    folder = resolve_model("tiny")
    assert (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file()


def test_a_local_folder_wins(tmp_path: Path):
    assert resolve_model(_folder(tmp_path / "m")) == tmp_path / "m"
    assert resolve_model("m") == Path("m")
    _folder(tmp_path / "a" / "b", "adapter_config.json")
    assert resolve_model("a/b") == Path("a/b")
    _folder(tmp_path / "tiny")
    assert resolve_model("tiny") == Path("tiny")


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{}", "model.safetensors": ""},
        {
            "config.json": "{}",
            "model.safetensors.index.json": json.dumps({"weight_map": {"a": "x.safetensors"}}),
            "x.safetensors": "",
        },
    ],
)
def test_the_cache_is_used_without_a_network(tmp_path: Path, files: dict[str, str]):
    snapshot = _cached(tmp_path, "some/model", files)
    assert resolve_model("some/model") == snapshot
    assert revision_of(snapshot) == COMMIT and revision_of(tmp_path) is None
    assert resolve_model("some/model", revision=COMMIT) == snapshot


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{}"},
        {"config.json": "{}", "pytorch_model.bin": "x"},
        {
            "config.json": "{}",
            "model.safetensors.index.json": json.dumps({"weight_map": {"a": "x.safetensors"}}),
        },
        {"config.json": "{}", "model.safetensors.index.json": "[" * 100_000},
    ],
)
def test_an_incomplete_snapshot_is_not_taken_for_a_model(tmp_path: Path, files, monkeypatch):
    _cached(tmp_path, "some/model", files)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="can't be reached"):
        resolve_model("some/model")
    assert resolve_model("some/model", weights=False)


def _message(name: str, **options) -> str:
    with pytest.raises(ModelError) as caught:
        resolve_model(name, **options)
    text = str(caught.value)
    assert "\n" not in text and caught.value.exit_code == 2
    return text


def test_errors_name_what_is_near(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _folder(tmp_path / "output" / "final")
    _folder(tmp_path / "output" / "checkpoint-20")
    _folder(tmp_path / "output" / "checkpoint-100")
    assert "did you mean output/final?" in _message("output/fnal")
    assert "did you mean output?" in _message("outptu/final")
    assert "did you mean output/final or output/checkpoint-100?" in _message("output")
    assert "did you mean tiny?" in _message("tyny")
    assert "HF_HUB_OFFLINE is set" in _message("mispeech/midashenglm-7b")
    assert "hf download mispeech/midashenglm-7b" in _message("mispeech/midashenglm-7b")
    assert "give the folder with --model-name" in _message("mispeech/midashenglm-7b")
    assert "small base that ships with the toolkit: --model-name tiny" in _message("mispeech/midashenglm-7b")
    assert "--model-name" not in _message("mispeech/midashenglm-7b", option="--base-model")
    assert "no model folder ./none" in _message("./none")
    (tmp_path / "w.safetensors").write_text("")
    assert "a model is a folder" in _message("w.safetensors")


@pytest.mark.parametrize(
    "name", ["../x", "a/b/c", "a--b", "x" * 200, "a b", "ümlaut", "", "a/../b", "/nowhere"]
)
def test_what_is_no_id_is_never_asked_for(name: str, monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise AssertionError("asked the Hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert _message(name)


def _hub_says(monkeypatch: pytest.MonkeyPatch, error: Exception, asked: list | None = None) -> None:
    import huggingface_hub

    def answer(name, *, local_files_only=False, **options):
        if asked is not None:
            asked.append((local_files_only, options))
        raise huggingface_hub.errors.LocalEntryNotFoundError("no") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)


def test_only_text_and_safetensors_are_ever_fetched(tmp_path: Path, monkeypatch):
    from fnmatch import fnmatch

    import huggingface_hub

    asked: list = []

    def answer(name, *, local_files_only=False, **options):
        asked.append((local_files_only, options["allow_patterns"]))
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("no")
        return str(tmp_path / "m")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    (_folder(tmp_path / "m") / "model.safetensors").touch()
    assert resolve_model("some/model") == tmp_path / "m"
    assert [local for local, _ in asked] == [True, False, False], "the cache comes first"
    for number, (_, patterns) in enumerate(asked):
        for file in (
            "pytorch_model.bin",
            "a.pt",
            "a.pth",
            "x.pkl",
            "training_args.bin",
            "t.ckpt",
            "a.tar.gz",
        ):
            assert not any(fnmatch(file, pattern) for pattern in patterns)
        for file in ("config.json", "tokenizer.json", "chat_template.jinja", "merges.txt"):
            assert any(fnmatch(file, pattern) for pattern in patterns)
        weights = any(fnmatch("model-00001-of-00002.safetensors", pattern) for pattern in patterns)
        assert weights == (number != 1), "what is small comes first, to be looked at"


RELATIVES = [
    ({"model_type": "midashenglm_spatial"}, r"MiDashengLM-Spatial, which has two audio encoders"),
    ({"model_type": "midashenglm-gen"}, r"MiDashengLM-Gen, which makes sound from text"),
    ({"model_type": "qwen2_audio"}, r"another model \(model_type is 'qwen2_audio'\)"),
    (
        {"model_type": "midashenglm", "audio_encoder_config": {}, "spatial_encoder_config": {}},
        r"more than one encoder \(audio_encoder_config, spatial_encoder_config\)",
    ),
    (
        {"model_type": "midashenglm", "quantization_config": {"quant_method": "compressed-tensors"}},
        r"quantised already \(compressed-tensors\).*bf16 or fp32",
    ),
]


@pytest.mark.parametrize(("config", "message"), RELATIVES)
def test_relatives_are_refused_by_name(tmp_path: Path, monkeypatch, config: dict, message: str):
    import huggingface_hub

    _folder(tmp_path / "m").joinpath("config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message) as caught:
        resolve_model(tmp_path / "m")
    assert str(caught.value).startswith(f"{tmp_path / 'm'}: ") and "\n" not in str(caught.value)

    def answer(name, *, local_files_only=False, allow_patterns=(), **options):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("no")
        assert not any("safetensors" in pattern and "index" not in pattern for pattern in allow_patterns)
        return str(tmp_path / "m")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(ModelError, match=f"some/model: .*{message}"):
        resolve_model("some/model")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "midashenglm", "audio_encoder_config": {}, "text_config": {}},
        {"model_type": "midashenglm", "quantization_config": None},
        {"model_type": "midashenglm", "quantization_config": {"quant_method": "bitsandbytes"}},
        {},
    ],
)
def test_the_family_is_let_in(tmp_path: Path, config: dict):
    _folder(tmp_path / "m").joinpath("config.json").write_text(json.dumps(config))
    assert resolve_model(tmp_path / "m") == tmp_path / "m"


def _response(status: int):
    try:
        import httpx2
    except ImportError:  # before huggingface_hub 2
        import httpx as httpx2  # type: ignore[no-redef]

    return httpx2.Response(status, request=httpx2.Request("GET", "https://user:secret@hub.example/x"))


def test_the_hubs_answers_are_explained_and_secrets_are_not_repeated(monkeypatch):
    from huggingface_hub import errors

    token = "hf_" + "a" * 34
    monkeypatch.setenv("HF_TOKEN", token)
    cases = [
        (errors.GatedRepoError(f"gated {token}", response=_response(403)), "ask for access"),
        (errors.RepositoryNotFoundError(f"404 {token}", response=_response(404)), "no such model"),
        (errors.RevisionNotFoundError(f"404 {token}", response=_response(404)), "no revision v9"),
        (errors.HfHubHTTPError(f"500 {token}", response=_response(500)), "status 500"),
        (ConnectionError(f"https://user:secret@hub {token}"), "can't be reached"),
        (RuntimeError(f"proxy https://user:secret@proxy {token}"), "RuntimeError"),
        (OSError(28, "No space left on device", "/cache/x"), "No space left on device"),
    ]
    for error, expected in cases:
        _hub_says(monkeypatch, error)
        text = _message("some/model", revision="v9")
        assert expected in text and token not in text and "secret" not in text


def test_modelscope_is_an_extra(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    assert "pip install 'mdl-toolkit[modelscope]'" in _message("some/model", from_modelscope=True)

    folder = _folder(tmp_path / "ms")
    (folder / "model.safetensors").write_text("")
    asked = []

    def download(name, *, revision, allow_patterns, local_files_only=False):
        asked.append((name, revision, local_files_only, "*.safetensors" in allow_patterns))
        assert "*.bin" not in allow_patterns
        if local_files_only:
            raise ValueError("not there")
        return str(folder)

    module = types.ModuleType("modelscope")
    module.snapshot_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", module)
    assert resolve_model("some/model", revision="v1", from_modelscope=True) == folder
    wanted = [(True, True), (False, False), (False, True)]  # the cache, then what is small, then the weights
    assert asked == [("some/model", "v1", *one) for one in wanted]
    assert resolve_model(folder, from_modelscope=True) == folder
    (folder / "config.json").write_text('{"model_type": "midashenglm_spatial"}')
    asked.clear()
    assert "some/model: this is MiDashengLM-Spatial" in _message("some/model", from_modelscope=True)
    assert [weights for _, _, local, weights in asked if not local] == [False]
    (folder / "config.json").write_text("{}")

    def broken(*args, **kwargs):
        raise RuntimeError("token ms-secret")

    module.snapshot_download = broken  # type: ignore[attr-defined]
    text = _message("some/model", from_modelscope=True)
    assert "ModelScope gave none (RuntimeError)" in text and "ms-secret" not in text


def test_nothing_heavy_is_imported():
    import subprocess

    code = (
        "from mdl_toolkit.hub import resolve_model; resolve_model('tiny'); import sys;"
        "assert not {'torch', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_in_place_of_a_folder(tmp_path: Path):
    """The folder that it is in is the remedy where that is a model, and only there."""
    (tmp_path / "table.csv").write_text("audio\n")
    with pytest.raises(ModelError, match=r"table\.csv: a file; a model is a folder with config\.json in it$"):
        resolve_model(tmp_path / "table.csv")
    config = _folder(tmp_path / "m") / "config.json"
    with pytest.raises(ModelError, match=rf"a file; .*: {tmp_path / 'm'}$"):
        resolve_model(config)
