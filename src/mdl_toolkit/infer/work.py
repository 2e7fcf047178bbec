"""The work of ``inference``: what decides the answers, and which rows this process answers."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice
from typing import Any

import torch

from mdl_toolkit.data.audio.load import AudioLimits
from mdl_toolkit.data.prompt.builder import PromptBuilder, processing_fingerprint
from mdl_toolkit.files import sha256_of
from mdl_toolkit.generation.config_file import end_tokens, read_generation_file
from mdl_toolkit.generation.decoding import in_force
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.generation.likelihood import ChoiceScorer
from mdl_toolkit.infer.answering import Answerer, LoadingRow, RowReporter, WindowAnswers
from mdl_toolkit.infer.confidence.choices import RowChoices, has_choices
from mdl_toolkit.infer.confidence.values import Confidence
from mdl_toolkit.infer.journal.lines import WindowLog
from mdl_toolkit.infer.options import answer_limits, choose_decoding, describe_generation
from mdl_toolkit.infer.processes.peer import Peer
from mdl_toolkit.infer.prompts import PromptChoice, RowReader
from mdl_toolkit.infer.windows import by_length, read_windows, window_rows
from mdl_toolkit.memory import available_bytes
from mdl_toolkit.model.kernels.linear import cpu_has_bfloat16, lay_out
from mdl_toolkit.model_folders.folder import ADAPTER_WEIGHTS, OVERLAY_WEIGHTS, ModelFolder
from mdl_toolkit.model_folders.load import load_model, main_dtype
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.settings import InferenceSettings
from mdl_toolkit.settings.options import flag, options_where
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import Progress

logger = get_logger(__name__)


class Work:
    """What decides the answers of a command, and the answering of this process's share of the rows.

    Args:
        settings: The options of the command.
        place: The model's folder.
        peer: This process among those of the launch.
        bad: Rows of the input that can't be tried.
        columns: The columns of the input.

    Raises:
        UserError: For what is wrong with the model's folder, or with options for this model.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        place: ModelFolder,
        peer: Peer,
        bad: int,
        columns: Sequence[str],
    ) -> None:
        self.settings, self.place, self.peer = settings, place, peer
        self.builder = PromptBuilder(place.base)
        self.dtype = _dtype(settings, place, peer.device)
        self.choice = PromptChoice(settings, place.manifest.prompts if place.manifest else None)
        self.generation_file = read_generation_file(place, settings.generation_config)
        self.decoding = choose_decoding(settings, self.generation_file, place)
        limits = answer_limits(settings, self.generation_file, place.manifest, self.builder.max_tokens)
        self.choices = RowChoices(settings, self.builder) if has_choices(settings, columns) else None
        self.confidence = Confidence.of(settings, self.choices is not None)
        self.reader = RowReader(self.builder, self.choice, limits, AudioLimits.of(settings), self.choices)
        self.bad = bad
        #: Good rows of each window, of all processes together; known when :meth:`run` has ended.
        self.windows: dict[int, int] = {}

    def window_rows(self, rows: int) -> int:
        """Rows of a window, where the work begins now."""
        return window_rows(self.settings.batch_size, rows, self.peer.world_size, self.peer.device.type)

    def description(self) -> dict[str, Any]:
        """All that decides the result, by the name that a person knows it under."""
        s = self.settings
        return {
            "input": sha256_of(s.input)[:32],
            "model": _model_digest(self.place),
            "dtype": str(self.dtype).removeprefix("torch."),
            "system prompt": self.choice.system,
            "user prompt": self.choice.user,
            "prompt order": self.choice.order,
            **{flag(name): getattr(s, name) for name in options_where(InferenceSettings, resume="same")},
            # One folder, whatever the working directory is.
            "--base-dir": None if s.base_dir is None else str(s.base_dir.resolve()),
            "limit": self.reader.limits.describe(),
            "end tokens": self.ends,
            **in_force(self.decoding),
            # What isn't asked for isn't named, as in journals of before there was any of it.
            **({} if self.choices is None else {"--choices": self.choices.digest}),
            **({"--scores": True} if s.scores else {}),
            **({"--n-best": s.n_best} if s.n_best is not None else {}),
        }  # fmt: skip

    def open_rows(self, log: WindowLog) -> dict[int, int]:
        """Rows that are not answered yet, as far as it is known here, by the rank of their process."""
        rows: dict[int, int] = {}
        for window, count in self.windows.items():
            if not log.is_done(window):
                rank = window % self.peer.world_size
                rows[rank] = rows.get(rank, 0) + count
        return rows

    def run(self, log: WindowLog, progress: Progress) -> None:
        """Answer the rows of this process's windows that are not answered yet."""
        generator: Answerer | None = None
        decode = partial(self.builder.decode, skip_special=True)
        reporter = RowReporter(self.settings.input, self.choice)
        with _Pool(self.settings.num_workers) as pool:
            ahead = 2 * max(self.settings.batch_size, self.settings.num_workers)
            rows = _read_ahead(self._rows(log, pool), ahead)
            for window, loading in groupby(rows, key=lambda item: item.window):
                generator = generator or self._answerer()
                answers = WindowAnswers(window, loading, decode, log, progress, reporter, self.confidence)
                answers.make(generator, self.settings.batch_size)
                log.refresh()
                progress.update(self.bad + log.rows - progress.done)

    def _answerer(self) -> Answerer:
        s = self.settings
        limit = self.reader.limits.describe()
        logger.info(describe_generation(s, self.generation_file, self.decoding, limit, self.choices))
        logger.info(f"loading {s.model_name} ({str(self.dtype).removeprefix('torch.')}, {self.peer.device})")
        quantization: Any = s.quantization
        model = load_model(self.place, dtype=self.dtype, device=self.peer.device, quantization=quantization)
        model.requires_grad_(False)
        lay_out(model, available_bytes(torch.device("cpu"), self.peer.world_size))
        if self.choices is not None:
            return ChoiceScorer(model)
        return Generator(model, self.ends, self.decoding, self.confidence.needs_logprobs)

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        return end_tokens(self.generation_file, self.builder.end_id)

    def _rows(self, log: WindowLog, pool: ThreadPoolExecutor) -> Iterator[LoadingRow]:
        """The rows of this process's unfinished windows; loading begins when a row is taken."""
        s = self.settings
        for window in read_windows(s.input, s.encoding, log.window_rows):
            if good := window.good():
                self.windows[window.number] = len(good)
            if not good or not self.peer.mine(window.number) or log.is_done(window.number):
                continue
            for place in by_length(window, self.reader.audio, pool):
                row = window.row(place)
                yield LoadingRow(window.number, place, row, pool.submit(self.reader.read, row, place))


class _Pool(ThreadPoolExecutor):
    """Threads that nobody waits for when the work ends early."""

    def __exit__(self, *exception: object) -> None:
        self.shutdown(wait=exception[0] is None, cancel_futures=True)


def _read_ahead(items: Iterator[LoadingRow], count: int) -> Iterator[LoadingRow]:
    """The items, each taken so many before it is needed."""
    ahead: deque[LoadingRow] = deque(islice(items, count))
    while ahead:
        ahead.extend(islice(items, 1))
        yield ahead.popleft()


def _dtype(settings: InferenceSettings, place: ModelFolder, device: torch.device) -> torch.dtype:
    """As asked; else bfloat16 on GPUs that have it, and on CPUs that do where the weights have no more."""
    wanted = settings.bf16
    if wanted is None and device.type == "cuda":
        wanted = torch.cuda.is_bf16_supported()
    elif wanted is None:
        wanted = cpu_has_bfloat16() and main_dtype(WeightFiles(place.base)) == torch.bfloat16
    return torch.bfloat16 if wanted else torch.float32


def _model_digest(place: ModelFolder) -> str:
    parts = [WeightFiles(place.base).fingerprint(), processing_fingerprint(place.base)]
    name = {"adapter": ADAPTER_WEIGHTS, "overlay": OVERLAY_WEIGHTS}.get(place.kind)
    if name is not None:
        parts.append(WeightFiles(place.folder, name).fingerprint())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
