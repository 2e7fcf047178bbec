"""Predicting answers: `mdl-toolkit inference` beside a padded loop in the style of the public 0.1.0.

    python -m benchmarks.commands.inference [--clips 256] [--batch-size 32] [--repeats 3] [--only labels]

A model of 113 M parameters with random weights, clips of 0.1 to 5 s, greedy answers that are ended after some
tokens, drawn for each row: `labels` 2 to 4, `transcripts` about three a second of sound, `fixed` 32 for all.
The padded loop takes the rows as they come, loads a batch's clips, pads clips and prompts to the longest of
the batch and lets the library generate until the batch's last answer has ended. Runs alternate; both include
loading the model. Answers are compared one by one. `cpu_ratio` compares processor time, which other work on
the machine hardly changes.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.common import SHAPE, emit, spread
from benchmarks.model.padded import plain_products

CASES = ("labels", "transcripts", "fixed")
PROMPT = "Listen to this recording and say what it is"


def make_rows(folder: Path, count: int) -> Path:
    import soundfile

    rng = np.random.default_rng(0)
    rows = []
    (folder / "clips").mkdir(parents=True)
    for number in range(count):
        samples = int(rng.uniform(0.1, 5.0) * 16000)
        tone = np.sin(np.arange(samples) * rng.uniform(0.02, 0.6)) * 0.2
        noise = rng.standard_normal(samples) * rng.uniform(0.001, 0.1)
        soundfile.write(folder / f"clips/{number}.wav", (tone + noise).astype(np.float32), 16000)
        rows.append((f"clips/{number}.wav",))
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("audio",), *rows])
    return folder / "rows.csv"


def paddedly(model_folder: Path, table: Path, output: Path, batch_size: int, lengths: list[int]) -> None:
    """The padded loop: rows in order, nothing in parallel, until the CSV is written."""
    from transformers import GenerationConfig

    from mdl_toolkit.compat.transformers_decoder import use_attention
    from mdl_toolkit.data.audio.load import load_waveform
    from mdl_toolkit.data.audio.pcm16 import from_pcm16, to_pcm16
    from mdl_toolkit.data.input.records import Row, read_records
    from mdl_toolkit.data.prompt.builder import PromptBuilder
    from mdl_toolkit.model_folders.load import load_model

    model: Any = load_model(model_folder, dtype=torch.float32)
    use_attention(model.decoder, "sdpa")
    plain_products(model)
    builder = PromptBuilder(model_folder)
    config = GenerationConfig(
        max_new_tokens=max(lengths), eos_token_id=builder.end_id, pad_token_id=0, do_sample=False
    )
    rows = [row for row in read_records(table) if isinstance(row, Row)]
    with open(output, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("audio", "prediction"))
        for first in range(0, len(rows), batch_size):
            group = rows[first : first + batch_size]
            clips = [load_waveform(str(table.parent / row.audio)) for row in group]
            clips = [from_pcm16(to_pcm16(clip)[0]) for clip in clips]
            ids = [
                builder.encode(None, PROMPT, builder.geometry.audio_tokens(len(clip)), None).input_ids
                for clip in clips
            ]
            wanted = lengths[first : first + batch_size]
            answers = _answers(model, ids, clips, config, wanted)
            for row, tokens, length in zip(group, answers, wanted, strict=True):
                writer.writerow((row.audio, builder.decode(tokens[:length], skip_special=True)))


@torch.inference_mode()
def _answers(
    model: Any, prompts: list[np.ndarray], clips: list[np.ndarray], config: Any, lengths: list[int]
) -> list[list[int]]:
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Lengths(StoppingCriteria):  # type: ignore[misc]
        """Ends each row's answer at its length, as an end token would."""

        def __call__(self, input_ids: torch.Tensor, _scores: Any, **_kwargs: Any) -> torch.Tensor:
            return input_ids.shape[1] >= torch.tensor(lengths)

    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, longest - len(prompt) :] = 1
    embeds = model.get_input_embeddings()(ids)
    places = ids == model.config.audio_token_id
    embeds = embeds.masked_scatter(places[..., None], _features(model, clips))
    output: torch.Tensor = model.decoder.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([Lengths()]),
    )
    return [list(row) for row in output.tolist()]


def _features(model: Any, clips: list[np.ndarray]) -> torch.Tensor:
    """Features with every clip padded to the longest through all blocks."""
    from mdl_toolkit.model.layout import ClipLayout

    geometry, encoder = model.geometry, model.audio_encoder
    samples = [geometry.padded_samples(len(clip)) for clip in clips]
    longest = max(samples)
    waveform = torch.zeros(len(clips), longest)
    for row, clip in enumerate(clips):
        waveform[row, : len(clip)] = torch.from_numpy(clip)
    layout = ClipLayout.build([longest] * len(clips), geometry, encoder.config.n_fft, waveform.device)
    x = encoder.patch_embed(encoder.init_bn(encoder.front_end(waveform.flatten(), layout)))
    x = x + (encoder.time_pos_embed + encoder.freq_pos_embed)[0, :, 0].t().index_select(0, layout.positions)
    x = x.view(len(clips), -1, x.shape[-1])
    valid = torch.tensor([geometry.valid_patches(count) for count in samples])
    mask = (torch.arange(x.shape[1])[None] < valid[:, None])[:, None, None]
    for block in encoder.blocks:
        batch, length, width = x.shape
        heads = block.attn.num_heads
        fused = block.attn.qkv(block.norm1(x)).view(batch, length, 3, heads, -1)
        query, key, value = fused.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + block.attn.proj(attended.transpose(1, 2).reshape(batch, length, width))
        x = x + block.mlp(block.norm2(x))
    x = encoder.norm(x)
    factor = geometry.subsample_factor
    runs = x[:, : x.shape[1] // factor * factor].reshape(len(clips), -1, factor * x.shape[-1])
    features = model.audio_projector.net(runs)
    counts = [geometry.audio_tokens(count) for count in samples]
    return torch.cat([row[:count] for row, count in zip(features, counts, strict=True)])


def answer_lengths(case: str, table: Path) -> list[int]:
    """Tokens of each row's answer."""
    import soundfile

    from mdl_toolkit.data.input.records import Row, read_records

    rng = np.random.default_rng(1)
    rows = [row for row in read_records(table) if isinstance(row, Row)]
    seconds = [soundfile.info(str(table.parent / row.audio)).duration for row in rows]
    if case == "labels":
        return [int(n) for n in rng.integers(2, 5, len(seconds))]
    if case == "transcripts":
        return [max(1, round(3 * s * rng.lognormal(0, 0.3))) for s in seconds]
    return [32] * len(seconds)


def predictions(path: Path) -> list[str]:
    with open(path, newline="", encoding="utf-8") as stream:
        return [row["prediction"] for row in csv.DictReader(stream)]


def run_case(args: argparse.Namespace, case: str, folder: Path, table: Path) -> None:
    from mdl_toolkit.infer.prompts import RowReader
    from mdl_toolkit.infer.run import inference
    from mdl_toolkit.settings import InferenceSettings

    lengths = answer_lengths(case, table)
    read = RowReader.read
    RowReader.read = lambda self, row, key: replace(read(self, row, key), budget=lengths[key])  # type: ignore
    times: dict[str, list[float]] = {"ours": [], "padded": []}
    cpu: dict[str, list[float]] = {"ours": [], "padded": []}
    outputs = {tool: table.parent / f"{case}-{tool}.csv" for tool in times}
    settings = InferenceSettings(
        input=table,
        output=outputs["ours"],
        model_name=str(folder),
        base_dir=table.parent,
        user_prompt=PROMPT,
        batch_size=args.batch_size,
        max_new_tokens=max(lengths),
        bf16=False,
    )
    for _ in range(args.repeats):
        for tool in times:
            start, begun = time.perf_counter(), time.process_time()
            if tool == "ours":
                inference(settings)
            else:
                paddedly(folder, table, outputs[tool], args.batch_size, lengths)
            times[tool].append(time.perf_counter() - start)
            cpu[tool].append(time.process_time() - begun)
    RowReader.read = read  # type: ignore
    rows = {tool: predictions(path) for tool, path in outputs.items()}
    same = sum(a == b for a, b in zip(rows["ours"], rows["padded"], strict=True))
    report(case, args.clips, times, cpu, lengths, f"{same}/{args.clips}")


def report(
    case: str,
    clips: int,
    times: dict[str, list[float]],
    cpu: dict[str, list[float]],
    lengths: list[int],
    same: str,
) -> None:
    for tool, seconds in times.items():
        emit(
            "inference",
            ("torch", "transformers"),
            case=case,
            tool=tool,
            clips=clips,
            clips_per_second=spread([clips / s for s in seconds], 2),
            clips_per_cpu_second=spread([clips / s for s in cpu[tool]], 2),
            answer_tokens={"mean": round(float(np.mean(lengths)), 1), "max": max(lengths)},
        )
    ratios = [padded / ours for ours, padded in zip(times["ours"], times["padded"], strict=True)]
    cpu_ratios = [padded / ours for ours, padded in zip(cpu["ours"], cpu["padded"], strict=True)]
    emit(
        "inference",
        ("torch",),
        case=case,
        ratio=spread(ratios, 2),
        cpu_ratio=spread(cpu_ratios, 2),
        same_answers=same,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from support.models.tiny import make_model_folder

    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model_folder(Path(scratch) / "model", **SHAPE)
        table = make_rows(Path(scratch) / "data", args.clips)
        for case in args.only:
            run_case(args, case, folder, table)


if __name__ == "__main__":
    main()
