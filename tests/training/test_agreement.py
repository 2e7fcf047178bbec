"""All hosts run the same thing, or none does: what is compared, and what is said of those that differ.

The processes are threads here, which exchange what real ones would. Real hosts:
``tests/system/launches/test_agreement.py``.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from mdl_toolkit.data.dataset import content
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import HostsDisagreeError, UserError
from mdl_toolkit.model_folders.manifest import package_versions
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import HostRule, options_where, settings_fields
from mdl_toolkit.training import agreement
from mdl_toolkit.training.agreement import Facts, require_agreement, shown_processes
from mdl_toolkit.training.checkpoints.identity import Identity
from mdl_toolkit.training.checkpoints.state import RunState
from support.training.runs import make_dataset

ROOT = Path(__file__).resolve().parents[2]
TAIL = (
    ". All hosts of a run need the same options, data, model and versions; paths, workers and caches "
    "may differ"
)


class Exchange:
    """What some threads have brought to their next exchange."""

    def __init__(self, count: int) -> None:
        self.values: list[Any] = [None] * count
        self.barrier = threading.Barrier(count, timeout=30)


@dataclass
class OneOf:
    """A process of a run, as far as the comparison knows it."""

    rank: int
    hosts: Sequence[str]
    exchange: Exchange
    device: torch.device
    exchanges: int = 0

    @property
    def world_size(self) -> int:
        return len(self.hosts)

    def gather_objects(self, value: Any) -> list[Any]:
        self.exchanges += 1
        self.exchange.values[self.rank] = value
        self.exchange.barrier.wait()
        values = list(self.exchange.values)
        self.exchange.barrier.wait()
        return values


@dataclass
class Start:
    """How a process was started, by what differs from the others."""

    options: Mapping[str, Any] = field(default_factory=dict)
    model: Path | None = None
    weights: str = "ab12"
    data: Path | None = None
    evaluation: Path | None = None
    device: str = "cpu"


@pytest.fixture
def compare(shop: Any) -> Any:
    """Compare processes: gives the message that all end with, or an empty one, and their exchanges."""

    def compared(starts: Sequence[Start], hosts: Sequence[str]) -> SimpleNamespace:
        exchange = Exchange(len(starts))
        ranks = [
            OneOf(rank, hosts, exchange, torch.device(start.device)) for rank, start in enumerate(starts)
        ]
        messages: list[str | None] = [None] * len(starts)

        def process(rank: int) -> None:
            start = starts[rank]
            values = {"train_dataset": "data", "output": Path("run"), "bf16": False, **start.options}
            folders = {"training": start.data or shop.data, "evaluation": start.evaluation}
            data = {name: ClipDataset.open([path]) for name, path in folders.items() if path}
            model = start.model or shop.model
            try:
                require_agreement(TrainSettings(**values), ranks[rank], model, start.weights, data)  # type: ignore[arg-type]
                messages[rank] = ""
            except HostsDisagreeError as error:
                assert error.exit_code == 2
                messages[rank] = str(error)
            except Exception as error:
                exchange.barrier.abort()
                messages[rank] = f"{type(error).__name__} on rank {rank}"

        threads = [
            threading.Thread(target=process, args=(rank,), name=f"rank-{rank}") for rank in range(len(starts))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(messages)) == 1 and messages[0] is not None, messages
        assert len({each.exchanges for each in ranks}) == 1
        return SimpleNamespace(message=messages[0], exchanges=ranks[0].exchanges)

    return compared


AB = ("node-a", "node-b")


def test_every_option_says_whether_it_may_differ() -> None:
    rules = {f.name: f.metadata["hosts"] for f, _ in settings_fields(TrainSettings)}
    assert [name for name, rule in rules.items() if rule not in get_args(HostRule)] == []
    assert {name for name, rule in rules.items() if rule == "free"} == {
        "output", "cache_dir", "num_workers", "tokenizing_batch_size", "data_workers", "report_to",
        "logging_steps", "eval_accumulation_steps", "peer_timeout",
    }  # fmt: skip
    assert {name for name, rule in rules.items() if rule == "derived"} == {
        "train_dataset", "eval_dataset", "model_name", "revision", "from_modelscope", "bf16", "system_prompt",
        "user_prompt", "prompt_order", "base_dir", "encoding", "on_error", "max_audio_seconds",
        "allow_private_urls", "allow_outside_base_dir", "url_timeout", "url_max_mib", "audio_storage",
    }  # fmt: skip


OTHER: dict[str, Any] = {
    "method": "full", "train_target": ["encoder"], "lora_rank": 8, "lora_alpha": 8, "lora_dropout": 0.1,
    "lora_attention": True, "rslora": True, "dora": True, "quantization": "8bit", "lr": 0.01,
    "lr_scheduler": "cosine", "warmup_steps": 5, "warmup_ratio": 0.1, "weight_decay": 0.1,
    "max_grad_norm": 2.0, "num_epochs": 2.0, "max_steps": 9, "overfit": 9, "batch_size": 4, "max_tokens": 512,
    "gradient_accumulation_steps": 2, "seed": 7, "gradient_checkpointing": True, "sharding": "full",
    "compile": True, "eval_steps": 9.0, "eval_batch_size": 4, "eval_on_start": True,
    "eval_generate": 9, "eval_task": "asr", "eval_max_new_tokens": 9,
    "metric_for_best": "wer", "early_stopping": 9,
    "save_steps": 9.0, "save_total_limit": 2,
    "merge_lora": False, "merge_onto": "original", "final_dtype": "float32",
    "resume_from_checkpoint": "true", "overwrite": True, "on_nonfinite": "skip",
    "output": Path("elsewhere"), "cache_dir": Path("cache"), "num_workers": 99, "tokenizing_batch_size": 3,
    "data_workers": 5, "peer_timeout": 60.0, "report_to": ["wandb"], "logging_steps": 3,
    "eval_accumulation_steps": 2,
    "train_dataset": ["other"], "eval_dataset": ["other"], "model_name": "x/y", "revision": "main",
    "from_modelscope": True, "bf16": None, "system_prompt": "s", "user_prompt": "u",
    "prompt_order": "text-first", "base_dir": Path("x"), "encoding": "gbk", "on_error": "skip",
    "max_audio_seconds": 9.0, "allow_private_urls": True, "allow_outside_base_dir": True, "url_timeout": 1.0,
    "url_max_mib": 2.0, "audio_storage": "flac",
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f, _ in settings_fields(TrainSettings)])
def test_an_option_acts_as_it_says(name: str, compare: Any) -> None:
    """Of data and model there is one copy here, so that options which only lead to them change nothing."""
    rule = {f.name: f.metadata["hosts"] for f, _ in settings_fields(TrainSettings)}[name]
    message = compare([Start(), Start({name: OTHER[name]})], AB).message
    flag = f"--{name.replace('_', '-')}"
    assert bool(message) == (rule == "same")
    if message:
        assert message.startswith("host node-b (rank 1) was started with ") and message.count(flag) == 2


def test_what_is_said_of_one_option(compare: Any) -> None:
    found = compare([Start(), Start({"lr": 0.01})], AB)
    assert found.message == (
        f"host node-b (rank 1) was started with --lr 0.01, host node-a (rank 0) with --lr 0.0001{TAIL}"
    )


def test_several_differences_of_several_hosts(compare: Any) -> None:
    """Eight processes of a host are one line; the host that stands alone is told, though it has rank 0."""
    hosts = ["node-a"] * 2 + ["node-b"] * 2 + ["node-c"] * 2
    odd = Start({"max_steps": 5, "merge_lora": False, "train_target": ["encoder", "decoder"]})
    assert compare([odd] * 2 + [Start()] * 4, hosts).message == (
        "host node-a (ranks 0, 1) was started with --train-target decoder,encoder, --max-steps 5 and "
        "--merge-lora false, hosts node-b, node-c (ranks 2 to 5) with "
        f"--train-target decoder,encoder,projector, no --max-steps and --merge-lora true{TAIL}"
    )
    many = [Start({name: OTHER[name] for name in [*OTHER][: 10 + i]}) for i in range(6)]
    lines = compare([Start(), Start(), *many], [f"h{i}" for i in range(8)]).message.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("and 2 more groups of processes differ. All hosts")
    assert all(len(line) < 1200 for line in lines) and "and 2 more, hosts h0, h1" in lines[0]


def test_equal_meanings(compare: Any) -> None:
    one = {
        "lora_dropout": math.nan, "save_steps": 500, "train_target": ["encoder", "decoder", "decoder"],
        "resume_from_checkpoint": "/mnt/a/checkpoint-20", "output": "run", "seed": 42, "overwrite": False,
    }  # fmt: skip
    other = {
        "lora_dropout": math.nan, "save_steps": 500.0, "train_target": ["decoder", "encoder"],
        "resume_from_checkpoint": Path("/home/b/checkpoint-20").as_posix(), "output": Path("elsewhere"),
    }  # fmt: skip
    assert compare([Start(one), Start(other)], AB).message == ""
    resumed = [Start({"resume_from_checkpoint": value}) for value in ("false", None, "none")]
    assert compare(resumed, ["a", "b", "c"]).message == ""
    other["resume_from_checkpoint"] = "checkpoint-10"
    message = compare([Start(one), Start(other)], AB).message
    assert "with --resume-from-checkpoint checkpoint-10, host node-a (rank 0) with" in message


def test_precision_counts_as_decided(compare: Any) -> None:
    assert compare([Start({"bf16": None}), Start({"bf16": False})], AB).message == ""
    assert compare([Start({"bf16": True}), Start({"bf16": None})], AB).message == (
        "host node-b (rank 1) was started with no --bf16, host node-a (rank 0) with --bf16 true; has "
        f"precision float32, host node-a (rank 0) has precision bfloat16{TAIL}"
    )


def test_another_version_or_device(compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    message = compare([Start(), Start(device="cuda")], AB).message
    assert "has device cuda, host node-a (rank 0) has device cpu" in message
    versions = package_versions()

    def faked() -> dict[str, str]:
        changes = {"mdl-toolkit": "9.9", "torch": "2.1.0+cu126", "accelerate": "0.1", "python": "3.1"}
        return {**versions, **changes} if threading.current_thread().name == "rank-1" else versions

    monkeypatch.setattr(agreement, "package_versions", faked)
    message = compare([Start(), Start()], AB).message
    ours, theirs = versions["mdl-toolkit"], versions["torch"].partition("+")[0]
    assert message == (
        "host node-b (rank 1) has mdl-toolkit 9.9 and torch 2.1.0, host node-a (rank 0) has mdl-toolkit "
        f"{ours} and torch {theirs}{TAIL}"
    )


def test_another_base(compare: Any, shop: Any, tmp_path: Path) -> None:
    message = compare([Start(), Start(weights="cd34")], AB).message
    assert "has base weights cd34, host node-a (rank 0) has base weights ab12" in message
    copy = Path(shutil.copytree(shop.model, tmp_path / "copy"))
    named = [Start({"model_name": str(folder)}, model=folder) for folder in (shop.model, copy)]
    assert compare(named, AB).message == ""
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 0.5
    config["transformers_version"] = "1.2.3"
    (copy / "config.json").write_text(json.dumps(config))
    message = compare(named, AB).message
    assert (
        "has config.json text_config.rms_norm_eps 0.5, host node-a (rank 0) has config.json text_" in message
    )
    assert f"was started with --model-name {copy}" in message and "1.2.3" not in message


def test_other_data(compare: Any, shop: Any, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", shop.model, rows=23)
    assert compare([Start(), Start(data=other)], AB).message == (
        "host node-b (rank 1) has 23 rows of training data, host node-a (rank 0) has 24; the first that "
        f"differs is train.csv row 25 (clip23.wav){TAIL}"
    )
    assert compare([Start(), Start(evaluation=shop.held_out)], AB).message == (
        "host node-b (rank 1) has 11 rows of evaluation data, host node-a (rank 0) has no evaluation data"
        f"{TAIL}"
    )
    louder = make_dataset(tmp_path / "louder", shop.model, seed=1, words=(1,))
    both = {"train_dataset": str(louder), "user_prompt": "What?"}
    message = compare([Start(), Start(both, data=louder)], AB).message
    assert message.startswith(
        f"host node-b (rank 1) was started with --user-prompt What? and --train-dataset {louder}, "
    )
    assert (
        "has other training data than host node-a (rank 0), in as many rows; the first that differs is"
        in message
    )
    asked = make_dataset(tmp_path / "asked", shop.model, prompt="What was it?")
    message = compare([Start(), Start(data=asked)], AB).message
    assert message.endswith(f"is train.csv row 2 (clip0.wav), in its prompt{TAIL}")


def test_copies_of_data_are_equal_and_files_in_one_place_are_not_read(
    compare: Any, shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_BLOCK_ROWS", 4)
    copy = Path(shutil.copytree(shop.data, tmp_path / "copy"))
    hosts = ["node-a", "node-a", "node-b", "node-b"]
    starts = [Start()] * 2 + [Start({"train_dataset": "copy"}, data=copy)] * 2
    assert compare(starts, hosts).message == ""
    monkeypatch.setattr(agreement, "block_digests", None)
    found = compare([Start(evaluation=shop.held_out)] * 3, ["node-a"] * 3)
    assert found.message == "" and found.exchanges == 2
    with pytest.raises(AssertionError, match="TypeError on rank"):
        compare(starts, hosts)


def test_processes_of_one_host_that_differ(compare: Any) -> None:
    message = compare([Start(), Start(), Start({"seed": 1})], ["node-a"] * 3).message
    assert message.startswith(
        "rank 2 (host node-a) was started with --seed 1, ranks 0, 1 (host node-a) with "
    )


def test_one_process_compares_nothing(shop: Any) -> None:
    alone = SimpleNamespace(world_size=1)
    require_agreement(TrainSettings(train_dataset="x", output=Path("y")), alone, shop.model, "", {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("group", "shown"),
    [
        ([0], "host a (rank 0)"),
        ([1, 2], "host b (ranks 1, 2)"),
        ([2], "rank 2 (host b)"),
        ([0, 1, 2, 4], "hosts a, b, d (ranks 0 to 2, 4)"),
        ([0, 2, 5], "ranks 0, 2, 5 (hosts a, b, e)"),
        ([0, 3, 4, 5, 6], "hosts a, c, d and 2 more (ranks 0, 3 to 6)"),
    ],
)
def test_processes_are_named_by_host(group: list[int], shown: str) -> None:
    assert shown_processes(group, ["a", "b", "b", "c", "d", "e", "f"]) == shown


def test_a_run_is_resumed_by_any_of_its_hosts(tmp_path: Path) -> None:
    """The same table, converted in another folder, has another fingerprint."""
    state = RunState(
        step=1, epoch=0, first_sample=8, schedule_position=1.0, schedule_total=9, counts={}, seconds=1.0,
        world_size=2, dataset="on-a", eval_dataset=None, model="ab12", options={},
    )  # fmt: skip
    made_of: dict[str, Any] = {"eval_dataset": None, "model": "ab12", "options": {}}
    Identity(dataset="on-b", on_hosts=("on-a", "on-b"), **made_of).check(state, tmp_path)
    with pytest.raises(UserError, match="on another dataset"):
        Identity(dataset="on-b", on_hosts=("on-b", "on-b"), **made_of).check(state, tmp_path)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guide_lists_what_may_differ(language: str) -> None:
    text = (ROOT / "docs" / language / "distributed.md").read_text(encoding="utf-8")
    section = next(part for part in text.split("\n## ") if "`--tokenizing-batch-size`" in part)
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `--")]
    listed = [name for cell in cells for name in re.findall(r"`--([a-z0-9-]+)`", cell)]
    may_differ = options_where(TrainSettings, hosts=("free", "derived"))
    assert sorted(listed) == sorted(name.replace("_", "-") for name in may_differ)


def test_the_order_of_evaluation_sets_has_to_be_the_same(shop: Any) -> None:
    """Each set is measured by all processes together; of one set there is one order."""
    of = lambda *sets: Facts.of(  # noqa: E731 -- a shorthand for two calls
        TrainSettings(train_dataset="data", output=Path("run")), shop.model, "w", torch.device("cpu"), sets
    )
    assert of("training", "evaluation (a)", "evaluation (b)") != of(
        "training", "evaluation (b)", "evaluation (a)"
    )
    assert of("training", "evaluation") == of("training")
