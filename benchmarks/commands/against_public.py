"""The public 0.1.0 and this version on the same folder, clips and machine, whole commands: JSON lines.

    pip install --target public-site --no-deps mdl-toolkit==0.1.0 pydantic pydantic-core pydantic-settings \
        annotated-types python-dotenv typing-inspection tqdm
    python -m benchmarks.commands.against_public --public-site public-site [--only convert train inference]

The model has 113 M parameters and random weights. 0.1.0 runs a model folder's own code; the publisher's isn't
distributed here, so the folder's code files hand over to a copy of this project's model and processor under
another name, in which the encoder works on padded batches, as published models do (``model/padded.py``).
Options are the same where they are named, and each program's own defaults elsewhere: 0.1.0 recomputes
activations, ours only where memory needs it. ``--same-memory`` turns that off in both.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.common import ROOT, SHAPE, emit

PROMPT = "Listen to this recording and say what it is"
WORDS = ["a", "dog", "barks", "far", "away", "and", "bells", "ring", "twice", "in", "the", "rain"]
PARTS = ("convert", "train", "train-bf16", "inference", "inference-bf16")
HAND_OVER = {
    "configuration_midashenglm.py": "from native_mdl.model.config import MiDashengLMConfig\n",
    "modeling_midashenglm.py": "from native_padded import MiDashengLMPadded as MiDashengLMModel\n",
    "processing_midashenglm.py": "from native_mdl.model.processor import MiDashengLMProcessor\n",
}


def native_copy(folder: Path) -> None:
    """This package under another name, so that 0.1.0, which has its name, can import it too.

    It leaves the library's Auto classes alone: a class that is registered there would be taken in place of
    the one that the model folder names.
    """
    package = ROOT / "src" / "mdl_toolkit"
    for path in package.rglob("*.py"):
        target = folder / "native_mdl" / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").replace("mdl_toolkit", "native_mdl").splitlines()
        kept = [line for line in lines if not re.match(r"Auto\w+\.register\(", line)]
        target.write_text("\n".join(kept) + "\n", encoding="utf-8")
    padded = (ROOT / "benchmarks" / "model" / "padded.py").read_text(encoding="utf-8")
    (folder / "native_padded.py").write_text(padded.replace("mdl_toolkit", "native_mdl"), encoding="utf-8")


def model_folder(folder: Path) -> Path:
    from support.models.tiny import make_model_folder

    make_model_folder(folder, tie=True, **SHAPE)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoConfig": "configuration_midashenglm.MiDashengLMConfig",
        "AutoModelForCausalLM": "modeling_midashenglm.MiDashengLMModel",
        "AutoProcessor": "processing_midashenglm.MiDashengLMProcessor",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, text in HAND_OVER.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def clips(
    folder: Path, count: int, rate: int, low: float, high: float, seed: int = 0, told: bool = False
) -> Path:
    """``count`` wav files of noise between two lengths (seconds, mean at 38 % of the way), and their CSV.

    Answers are of 8 words, or ``told``: the longer the clip, the more words.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        seconds = low + (high - low) * rng.beta(1.2, 1.96) if high > low else high
        path = folder / f"{i:05d}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * rate)).astype(np.float32), rate)
        answer = WORDS[: 2 + int(2 * seconds)] if told else rng.permutation(WORDS)[:8]
        rows.append((path.name, " ".join(answer)))
    table = folder / "clips.csv"
    with open(table, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["audio", "prediction"])
        writer.writerows(rows)
    return table


def timed(words: list[str], env: dict[str, str], cwd: Path) -> tuple[float, str, int]:
    """Seconds, output and peak resident bytes (largest child so far) of a command that must succeed."""
    start = time.perf_counter()
    done = subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, done.stdout + done.stderr, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Tools:
    """How the two programs are called."""

    def __init__(self, public_site: Path, work: Path) -> None:
        native_copy(work / "native")
        quiet = {
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "0",
            "TOKENIZERS_PARALLELISM": "false",
        }
        base = {**os.environ, **quiet, "HF_HOME": str(work / "hf")}
        public_path = os.pathsep.join([str(public_site.resolve()), str(work / "native")])
        self.env = {"ours": base, "public": {**base, "PYTHONPATH": public_path}}
        entry = "import sys; from mdl_toolkit.cli import main; sys.argv[0] = 'mdl-toolkit'; main()"
        self.program = {
            "ours": [str(Path(sys.executable).with_name("mdl-toolkit"))],
            "public": [sys.executable, "-c", entry],
        }

    def run(self, tool: str, words: list[str], cwd: Path) -> tuple[float, str, int]:
        return timed([*self.program[tool], *words], self.env[tool], cwd)


def convert(tools: Tools, model: Path, work: Path, count: int) -> None:
    table = clips(work / "five-seconds", count, 44100, 5.0, 5.0)
    for tool in ("ours", "public"):
        output = work / f"converted-{tool}"
        words = ["convert-dataset", str(table), "--base-dir", str(table.parent), "--model-name", str(model)]
        words += ["--user-prompt", PROMPT, "--num-workers", "2", "--output", str(output)]
        seconds, _, _ = tools.run(tool, words, work)
        start, _, _ = tools.run(tool, ["--help"], work)
        emit(
            "against_public", part="convert", tool=tool, clips=count, seconds=round(seconds, 2),
            seconds_of_help=round(start, 2), bytes=size(output),
        )  # fmt: skip


def train(tools: Tools, model: Path, work: Path, count: int, bf16: bool, same_memory: bool) -> None:
    table = clips(work / f"mixed-{bf16}", count, 16000, 0.1, 5.0)
    for tool in ("ours", "public"):
        words = [
            "train",
            "--model-name",
            str(model),
            "--base-dir",
            str(table.parent),
            "--user-prompt",
            PROMPT,
        ]
        words += ["--train-dataset", str(table), "--output", str(work / f"run-{tool}-{bf16}")]
        words += ["--lora-rank", "16", "--lora-alpha", "16", "--batch-size", "8", "--bf16", str(bf16).lower()]
        words += ["--save-steps", "100000", "--merge-lora", "false"]
        words += ["--gradient-checkpointing", "false"] if same_memory else []
        if tool == "ours":
            words += ["--on-error", "fail"]
        seconds, said, peak = tools.run(tool, words, work)
        if tool == "ours":
            lines = (work / f"run-ours-{bf16}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            metrics = [json.loads(line) for line in lines]
            losses = [line["loss"] for line in metrics if "loss" in line]
            rate = metrics[-1]["train_samples_per_second"]
        else:
            losses = [float(x) for x in re.findall(r"'loss': '?([0-9.]+)", said)]
            rate = float(re.findall(r"'train_samples_per_second': '?([0-9.]+)", said)[-1])
        emit(
            "against_public", part="train", tool=tool, bf16=bf16, clips=count, clips_per_second=rate,
            seconds=round(seconds, 1), first_loss=losses[0], last_loss=losses[-1], peak_bytes=peak,
        )  # fmt: skip


def teach(tools: Tools, model: Path, work: Path) -> Path:
    """A model whose answers end, from some training: of random weights they never do."""
    table = clips(work / "lessons", 256, 16000, 0.1, 5.0, seed=2, told=True)
    words = ["train", "--model-name", str(model), "--base-dir", str(table.parent), "--user-prompt", PROMPT]
    words += ["--train-dataset", str(table), "--output", str(work / "taught"), "--method", "full"]
    words += ["--lr", "3e-4", "--num-epochs", "4", "--batch-size", "8", "--save-steps", "100000"]
    tools.run("ours", words, work)
    return work / "taught" / "final"


def round_weights(model: Path, target: Path) -> Path:
    """The model with its weights in bfloat16, as published ones are."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, target)
    tensors = load_file(model / "model.safetensors")
    rounded = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(rounded, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = config["torch_dtype"] = str(torch.bfloat16).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


def infer(tools: Tools, model: Path, work: Path, count: int, bf16: bool) -> None:
    table = clips(work / f"infer-{bf16}", count, 16000, 0.1, 5.0, seed=1, told=True)
    taught = work / "taught" / "final"
    model = taught if taught.exists() else teach(tools, model, work)
    if bf16:
        model = round_weights(model, work / "taught-bf16")
    answers: dict[str, list[str]] = {}
    for tool in ("ours", "public"):
        output = work / f"predictions-{tool}-{bf16}.csv"
        words = ["inference", str(table), "--base-dir", str(table.parent), "--model-name", str(model)]
        words += ["--user-prompt", PROMPT, "--max-length", "128", "--output", str(output)]
        seconds, _, peak = tools.run(tool, words, work)
        with open(output, newline="", encoding="utf-8") as stream:
            answers[tool] = [row["prediction"] for row in csv.DictReader(stream)]
        emit(
            "against_public", part="inference", tool=tool, bf16=bf16, clips=count, seconds=round(seconds, 1),
            clips_per_second=round(count / seconds, 2), peak_bytes=peak,
            # 0.1.0 gives the prompt's text too.
            answers_as_ours=sum(map(str.endswith, answers[tool], answers["ours"])),
            words_of_an_answer=round(sum(len(a.split()) for a in answers["ours"]) / count, 1),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--public-site", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=PARTS)
    parser.add_argument("--clips", type=int, default=1000, help="of the conversion")
    parser.add_argument("--train-clips", type=int, default=160)
    parser.add_argument("--inference-clips", type=int, default=128)
    parser.add_argument("--same-memory", action="store_true", help="neither recomputes activations")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    args = parser.parse_args()
    parts = args.only or PARTS
    work = args.keep or Path(tempfile.mkdtemp(prefix="mdl-against-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        tools, model = Tools(args.public_site, work), model_folder(work / "model")
        if "convert" in parts:
            convert(tools, model, work, args.clips)
        for part, bf16 in (("train", False), ("train-bf16", True)):
            if part in parts:
                train(tools, model, work, args.train_clips, bf16, args.same_memory)
        for part, bf16 in (("inference", False), ("inference-bf16", True)):
            if part in parts:
                infer(tools, model, work, args.inference_clips, bf16)
    finally:
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
