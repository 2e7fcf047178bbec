"""Before the first step: all hosts run the same thing, or none does.

Each host is started with a command of its own, and has copies of data and model of its own. A different
learning rate, or one label edited in one copy, would let the replicas drift apart in silence; another number
of steps or evaluations would leave processes in different collectives. So what decides the result is compared
as the first exchange of a run, when nothing has been loaded yet and no exchange depends on an option.

What may differ is said by each option (``settings/options.py``, ``HostRule``). Environment variables are not
compared: those that decide something are in the options by then (``launcher.py``), and the others (threads,
kernels) change the rounding of a process's own gradient, whose sum all processes share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_toolkit.data.dataset.content import (
    WHAT,
    Digests,
    block_digests,
    block_rows,
    first_difference,
    place_on_disk,
    row_digests,
)
from mdl_toolkit.data.prompt.builder import processing_fingerprint
from mdl_toolkit.distributed.hosts import shown_ranks
from mdl_toolkit.errors import HostsDisagreeError
from mdl_toolkit.model_folders.manifest import package_versions
from mdl_toolkit.model_folders.tensorfiles.headers import read_json
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import OptionType, flag, options_where, settings_fields, shown
from mdl_toolkit.terminal.live_line import status
from mdl_toolkit.training.checkpoints.resume import NEWEST, requested_checkpoint
from mdl_toolkit.training.trainable.prepare import compute_dtype

if TYPE_CHECKING:
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.distributed.group import Ranks

#: Packages whose version decides what is computed, besides this one.
_DECIDING = ("torch", "transformers", "peft", "bitsandbytes")
#: What a config.json says of the program that wrote it.
_INCIDENTAL = {"_name_or_path", "transformers_version"}
#: Differences that are named of each kind, characters of a value, and groups of hosts, in one message.
_NAMED, _CHARACTERS, _GROUPS = 8, 80, 4


@dataclass(frozen=True)
class Facts:
    """What decides a run on one process, in words: equal runs have equal words.

    Attributes:
        options: The options that must be the same, as typed, by name.
        leads: The options of which only that must be the same what they lead to.
        things: Software, precision, and the parts of the model, each as ``name value``.
    """

    options: Mapping[str, str]
    leads: Mapping[str, str]
    things: Mapping[str, str]

    @classmethod
    def of(
        cls, settings: TrainSettings, model_folder: Path, weights: str, device: Any, sets: Sequence[str] = ()
    ) -> Facts:
        """Collect the facts of this process.

        Args:
            settings: The settings, with all that is decided filled in.
            model_folder: The folder of the base model.
            weights: The fingerprint of its weights.
            device: The device of this process.
            sets: The datasets, in the order in which they are used.
        """
        versions = package_versions()
        things = {"mdl-toolkit": versions["mdl-toolkit"]}
        for name in _DECIDING if settings.quantization else _DECIDING[:-1]:
            # A build for another CUDA computes the same thing.
            things[name] = versions.get(name, "not installed").partition("+")[0]
        things["device"] = device.type
        things["precision"] = str(compute_dtype(settings, device)).removeprefix("torch.")
        things["base weights"] = weights
        things["tokenizer and front end"] = processing_fingerprint(model_folder)
        if len(sets) > 2:  # of training data and one set of evaluation data there is one order
            things["sets in the order"] = ", ".join(sets)
        for key, value in _flat(read_json(model_folder / "config.json")).items():
            things[f"config.json {key}"] = value
        return cls(
            options=_typed(settings, "same"),
            leads=_typed(settings, "derived"),
            things={name: f"{name} {_short(value)}" for name, value in things.items()},
        )

    @property
    def digest(self) -> str:
        """A digest of what must be the same."""
        text = json.dumps([asdict(self)[part] for part in ("options", "things")], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class SetSummary:
    """A dataset as far as it is known without reading its rows.

    Attributes:
        rows: The number of rows.
        storage: How clips are stored.
        place: A digest of where its files are on this host.
    """

    rows: int
    storage: str
    place: str

    @classmethod
    def of(cls, data: ClipDataset) -> SetSummary:
        """Look at a dataset's folders."""
        return cls(len(data), data.manifest.storage, place_on_disk(data))


@dataclass
class Contents:
    """What the processes' datasets hold, by the dataset's name.

    Attributes:
        summaries: Of each process.
        blocks: The digests of each process's blocks; empty where all processes read the same files.
    """

    summaries: list[dict[str, SetSummary]]
    blocks: list[dict[str, list[Digests]]] = field(default_factory=list)

    def key(self, rank: int) -> str:
        """Equal for processes whose datasets are."""
        counts = {name: (found.rows, found.storage) for name, found in self.summaries[rank].items()}
        return repr((sorted(counts.items()), sorted(self.blocks[rank].items())))

    def first_block(self, name: str, rank: int, reference: int) -> int | None:
        """The first block of a dataset in which a process differs from another one, if there is one."""
        ours, theirs = (self.blocks[number].get(name, []) for number in (rank, reference))
        both = [self.summaries[number].get(name) for number in (rank, reference)]
        if not all(both) or len({block_rows(found.rows) for found in both if found}) > 1:
            return None
        return first_difference(ours, theirs)


def require_agreement(
    settings: TrainSettings, ranks: Ranks, model_folder: Path, weights: str, data: Mapping[str, ClipDataset]
) -> None:
    """Compare what decides the result with all other processes; every process makes this call first of all.

    Args:
        settings: The settings, with all that is decided filled in.
        ranks: The processes of the run.
        model_folder: The folder of the base model.
        weights: The fingerprint of its weights.
        data: The datasets, by what they are for.

    Raises:
        HostsDisagreeError: On every process, if any of them differs: which hosts, in what, and what to do.
    """
    if ranks.world_size == 1:
        return
    facts = Facts.of(settings, model_folder, weights, ranks.device, list(data))
    digests = ranks.gather_objects(facts.digest)
    with status("comparing the data with the other hosts'…"):
        contents = _compare(ranks, data)
    keys = [(digest, contents.key(rank)) for rank, digest in enumerate(digests)]
    if len(set(keys)) == 1:
        return
    groups = _groups(keys)
    rows = _differing_rows(ranks, data, contents, groups)
    raise HostsDisagreeError(_problems(ranks, ranks.gather_objects(facts), contents, groups, rows))


def _compare(ranks: Ranks, data: Mapping[str, ClipDataset]) -> Contents:
    """Exchange digests of all rows, which the processes that read the same files make together."""
    summaries = ranks.gather_objects({name: SetSummary.of(found) for name, found in data.items()})
    readers = [(host, repr(found)) for host, found in zip(ranks.hosts, summaries, strict=True)]
    contents = Contents(summaries, [{} for _ in readers])
    if len(set(readers)) == 1:
        return contents
    together = [rank for rank, reader in enumerate(readers) if reader == readers[ranks.rank]]
    share = {
        name: block_digests(found, together.index(ranks.rank), len(together)) for name, found in data.items()
    }
    shares = ranks.gather_objects(share)
    for rank, reader in enumerate(readers):
        for name in summaries[rank]:
            parts = [shares[other][name] for other, its in enumerate(readers) if its == reader]
            whole = {block: digests for part in parts for block, digests in part.items()}
            contents.blocks[rank][name] = [whole[block] for block in sorted(whole)]
    return contents


def _groups(keys: Sequence[Any]) -> list[list[int]]:
    """Processes that agree with each other; first the largest group, against which the others are told."""
    found: dict[Any, list[int]] = {}
    for rank, key in enumerate(keys):
        found.setdefault(key, []).append(rank)
    return sorted(found.values(), key=lambda group: (-len(group), group[0]))


@dataclass(frozen=True)
class DifferingRow:
    """The first row in which a dataset of one group differs from that of the first group.

    Attributes:
        name: The row's name, where it has it.
        what: What of it differs; empty where one of the two has no such row.
    """

    name: str
    what: tuple[str, ...]


def _differing_rows(
    ranks: Ranks, data: Mapping[str, ClipDataset], contents: Contents, groups: Sequence[Sequence[int]]
) -> dict[tuple[int, str], DifferingRow]:
    """The first row that differs, for each group but the first and each dataset.

    One process of each group sends the digests of the rows of one block, and the first group's those of all
    blocks that are asked for.
    """
    first = groups[0][0]
    asked = {
        (group[0], name): block
        for group in groups[1 : _GROUPS + 1]
        for name in contents.summaries[group[0]]
        if (block := contents.first_block(name, group[0], first)) is not None
    }
    own = {
        (name, block): _rows_of(data[name], block)
        for (rank, name), block in asked.items()
        if ranks.rank in (rank, first)
    }
    sent = ranks.gather_objects(own)
    found = {}
    for (rank, name), block in asked.items():
        (names, ours), (theirs_names, theirs) = (sent[number][name, block] for number in (rank, first))
        place = first_difference(ours, theirs)
        if place is None:
            continue
        both = place < min(len(ours), len(theirs))
        what = [w for w, o, t in zip(WHAT, ours[place], theirs[place], strict=True) if o != t] if both else []
        found[rank, name] = DifferingRow((names if place < len(names) else theirs_names)[place], tuple(what))
    return found


def _rows_of(data: ClipDataset, block: int) -> tuple[list[str], list[Digests]]:
    digests = row_digests(data, block)
    first = block * block_rows(len(data))
    return [data.row_name(first + i) for i in range(len(digests))], digests


def _problems(
    ranks: Ranks,
    facts: Sequence[Facts],
    contents: Contents,
    groups: Sequence[Sequence[int]],
    rows: Mapping[tuple[int, str], DifferingRow],
) -> list[str]:
    """A line for each group of processes that differs from the first group."""
    reference = groups[0][0]
    theirs = shown_processes(groups[0], ranks.hosts)
    lines = []
    for group in groups[1 : _GROUPS + 1]:
        ours, rank = shown_processes(group, ranks.hosts), group[0]
        things = _differences(facts[rank].things, facts[reference].things)
        sets = _of_sets(contents, rank, reference, theirs, rows)
        options = _differences(facts[rank].options, facts[reference].options)
        if things or sets:
            options += _differences(facts[rank].leads, facts[reference].leads)
        clauses = []
        if options:
            clauses.append(f"was started with {_listed(options, 0)}, {theirs} with {_listed(options, 1)}")
        if things:
            clauses.append(f"has {_listed(things, 0)}, {theirs} has {_listed(things, 1)}")
        lines.append(f"{ours} {'; '.join([*clauses, *sets])}")
    if len(groups) > _GROUPS + 1:
        lines.append(f"and {len(groups) - _GROUPS - 1} more groups of processes differ")
    lines[-1] += (
        ". All hosts of a run need the same options, data, model and versions; paths, workers and caches "
        "may differ"
    )
    return lines


def _of_sets(
    contents: Contents,
    rank: int,
    reference: int,
    theirs: str,
    rows: Mapping[tuple[int, str], DifferingRow],
) -> list[str]:
    """What is to be said of the datasets of one process, compared with another's."""
    found = []
    ours, others = contents.summaries[rank], contents.summaries[reference]
    for name in {**others, **ours}:
        here, there = ours.get(name), others.get(name)
        row = rows.get((rank, name))
        at = f"; the first that differs is {row.name}" if row else ""
        if here is None or there is None:
            both = (f"{found.rows} rows of" if found else "no" for found in (here, there))
            found_words = [f"{words} {name} data" for words in both]
            found.append(f"has {found_words[0]}, {theirs} has {found_words[1]}")
        elif here.storage != there.storage:
            found.append(f"has {name} data stored as {here.storage}, {theirs} as {there.storage}")
        elif here.rows != there.rows:
            found.append(f"has {here.rows} rows of {name} data, {theirs} has {there.rows}{at}")
        elif contents.blocks[rank].get(name) != contents.blocks[reference].get(name):
            what = f", in its {' and '.join(row.what)}" if row else ""
            found.append(f"has other {name} data than {theirs}, in as many rows{at}{what}")
    return found


def shown_processes(group: Sequence[int], hosts: Sequence[str]) -> str:
    """Some processes as a message names them: ``host node-b (ranks 8 to 15)``, or ``rank 3 (host node-b)``.

    Args:
        group: Their ranks, in order.
        hosts: The hosts of all processes, in order of rank.
    """
    numbers = shown_ranks(group)
    names = list(dict.fromkeys(hosts[rank] for rank in group))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    listed = f"host{'s' if len(names) > 1 else ''} {listed}"
    whole = all(rank in group for rank, host in enumerate(hosts) if host in names)
    return f"{listed} ({numbers})" if whole else f"{numbers} ({listed})"


def _differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (ours.get(name, f"no {name}"), theirs.get(name, f"no {name}"))
        for name in {**theirs, **ours}
        if ours.get(name) != theirs.get(name)
    ]


def _listed(differences: Sequence[tuple[str, str]], side: int) -> str:
    words = [both[side] for both in differences[:_NAMED]]
    if len(differences) > _NAMED:
        words.append(f"{len(differences) - _NAMED} more")
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]


def _typed(settings: TrainSettings, rule: str) -> dict[str, str]:
    """The options of a rule as somebody would type them, by name: the same text for the same meaning."""
    values = {**vars(settings), "resume_from_checkpoint": _checkpoint(settings)}
    chosen = options_where(TrainSettings, hosts=rule)
    return {
        f.name: _typed_option(f.name, kind, values[f.name])
        for f, kind in settings_fields(TrainSettings)
        if f.name in chosen
    }


def _typed_option(name: str, kind: OptionType, value: Any) -> str:
    if value is None or value == []:
        return f"no {flag(name)}"
    if kind.kind is float and isinstance(value, (int, float)):
        text = repr(float(value)).removesuffix(".0")
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = shown(sorted(set(value)) if isinstance(value, list) else value)
    return f"{flag(name)} {_short(text)}"


def _checkpoint(settings: TrainSettings) -> str | None:
    """What to resume from; of a folder its own name, as hosts may have it at different places."""
    wanted = requested_checkpoint(settings)
    return wanted if wanted in (None, NEWEST) else Path(wanted).name


def _flat(config: Any) -> dict[str, str]:
    """A configuration's values, those of its parts too, as JSON."""
    found: dict[str, str] = {}
    for key, value in config.items() if isinstance(config, dict) else ():
        parts = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        found |= {
            name: json.dumps(part, sort_keys=True)
            for name, part in parts.items()
            if name.rpartition(".")[2] not in _INCIDENTAL
        }
    return found


def _short(text: str) -> str:
    """A value for a message: a long one by its beginning and a digest of all of it."""
    if len(text) <= _CHARACTERS:
        return text
    return f"{text[: _CHARACTERS // 2]}… ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
