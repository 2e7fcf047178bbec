"""Every command block of the guide to distributed training, run as a reader would run it.

Each block that trains is the same training from the same data: whatever launcher, number of machines and
sharding it shows, its run must equal that of one process.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from support.processes.launch import Finished, environment, run, run_together
from support.processes.terminal import answer
from support.training.guide import ROOT, Block, blocks, for_cpus
from support.training.shop import TEST_ROWS, assert_same_run, eval_losses, steps

pytestmark = pytest.mark.system

GUIDE = "docs/en/distributed.md"
BLOCKS = blocks(GUIDE)
FILES = {block.file: block for block in BLOCKS if block.file}
# Accelerate's questions about one machine with GPUs, as far as the answer isn't the default.
ANSWERS = [("Which type of machine", "4"), ("How many GPU", "2")]


def _placed(*places: str) -> list[Block]:
    """The commands to be run at these places."""
    return [block for block in BLOCKS if block.language == "bash" and block.place in places]


@pytest.fixture(scope="module")
def reader(shop: Path) -> Path:
    """A reader's folder: the shop, with the guide's files in it."""
    files = {name: block.text for name, block in FILES.items()}
    for name in ("fsdp.yaml", "deepspeed_zero3.yaml"):
        files[name] = (ROOT / "examples" / "accelerate" / name).read_text()
    for name, text in files.items():
        (shop / str(name)).write_text(for_cpus(text, settings=shop / "train.yaml"))
    return shop


def _run(block: Block, reader: Path, request: pytest.FixtureRequest) -> list[Finished]:
    text = for_cpus(block.text, settings=reader / "train.yaml", processes=2 if block.place == "here" else 1)
    if block.place == "here":
        return [run(["sh", "-ec", text], cwd=reader)]
    assert block.place == "both hosts"
    pair = request.getfixturevalue("hosts")
    launches = [
        (host.prefix, ["sh", "-ec", f"export MACHINE_RANK={rank}; {text}"]) for rank, host in enumerate(pair)
    ]
    meeting = {"NUM_NODES": "2", "HOST_NODE_ADDR": "host-a:29400", "JOB_ID": f"job{block.number}"}
    return run_together(launches, cwd=reader, env=meeting)


@pytest.mark.parametrize("block", _placed("here", "both hosts"), ids=lambda block: block.title)
def test_command(block: Block, reader: Path, request: pytest.FixtureRequest):
    """Run a block; a run that it makes equals that of one process."""
    if "deepspeed" in block.text:
        pytest.importorskip("deepspeed", reason="accelerate starts a DEEPSPEED config with the extra only")
    trains = re.search(r"mdl[-_]toolkit train", block.text) is not None
    output = reader / "output"
    if "--resume-from-checkpoint" in block.text:
        if not (output / "checkpoint-2").exists():
            _run(BLOCKS[BLOCKS.index(block) - 1], reader, request)
        _cut_back(output, step=2)
    elif trains:
        shutil.rmtree(output, ignore_errors=True)
    elif not (output / "final").exists():
        shutil.copytree(reader / "alone", output, dirs_exist_ok=True)
    for name in re.findall(r"convert-dataset .*--output (\S+)/", block.text):
        shutil.rmtree(reader / name, ignore_errors=True)
    for finished in _run(block, reader, request):
        assert finished.code == 0, finished.output
        _assert_quiet(finished)
    if "inference" in block.text:
        assert len((reader / "predictions.csv").read_text().splitlines()) == 1 + TEST_ROWS
    if trains:
        assert_same_run(output, reader / "alone")
        assert len(steps(output)) == 6 and len(eval_losses(output)) == 1


@pytest.mark.parametrize("block", _placed("terminal"), ids=lambda block: block.title)
def test_dialogue(block: Block, reader: Path):
    """Answer accelerate's questions; what it writes is the config that the guide shows."""
    variables = {**environment(reader), "HF_HOME": str(reader / "home")}
    answer(["sh", "-ec", block.text.replace("multi_gpu", "asked")], ANSWERS, cwd=reader, env=variables)
    made = reader / ("asked.yaml" if "--config_file" in block.text else "home/accelerate/default_config.yaml")
    assert made.read_text() == (reader / "multi_gpu.yaml").read_text()


def _cut_back(output: Path, step: int) -> None:
    """Make a finished run one that was lost after a step."""
    shutil.rmtree(output / "final")
    for checkpoint in output.glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    assert (output / f"checkpoint-{step}").is_dir()


def _assert_quiet(finished: Finished) -> None:
    """No line that the program prints stands there twice: one process speaks."""
    ours = [line for line in finished.lines if line.startswith(("step ", "eval", "trainable", "warning"))]
    assert len(ours) == len(set(ours)), finished.output


def test_chinese_guide_has_the_same_blocks():
    translated = blocks("docs/zh/distributed.md")
    assert [(b.language, b.text, b.place, b.file) for b in translated] == [
        (b.language, b.text, b.place, b.file) for b in BLOCKS
    ]


def _words(text: str) -> list[str]:
    return text.replace("\\\n", " ").split()


def test_launch_lines_that_users_bring_along_are_in_the_guide():
    """The lines of the public version's document, which must run as they stand, are among the tested ones."""
    brought = ROOT.parent / "shared" / "launching.md"
    if not brought.is_file():
        pytest.skip(f"{brought.name} of the public version is not beside this checkout")
    ours = [_words(block.text) for block in BLOCKS]
    for line in blocks(os.path.relpath(brought, ROOT)):
        words = [
            # The guide says what num_processes counts; the value there is corrected to 2 machines × 8 GPUs.
            "16" if line.language == "yaml" and "main_process_ip:" in line.text and word == "8" else word
            for word in _words(line.text.replace("/path/to/config/file", "multi_gpu.yaml"))
        ]
        assert words in ours, line.text
