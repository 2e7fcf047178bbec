"""The order of the work: every clip once, the same steps for any number of processes, equal work for all."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdl_toolkit.data.batching import plan as batching
from mdl_toolkit.data.batching.balance import Costs, clip_work, split_by_tokens
from mdl_toolkit.data.batching.plan import FILL, POOL, Plan
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import AudioGeometry
from support.data.clips import TINY

GEOMETRY = AudioGeometry()


def _clips(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, samples and supervised tokens of clips of 0.1 to 20 s."""
    dice = np.random.default_rng(seed)
    samples = dice.integers(1600, 320_000, rows)
    supervised = dice.integers(2, 60, rows)
    audio = np.array([GEOMETRY.audio_tokens(int(n)) for n in samples])
    return audio + 20 + supervised, samples, supervised


def _plan(clips, **options) -> Plan:
    return Plan(*clips, **{"seed": 1, "micro_batches": 1, **options})


sizes = st.one_of(
    st.fixed_dictionaries({"batch_size": st.integers(1, 9)}),
    st.fixed_dictionaries({"max_tokens": st.integers(181, 700)}),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400), sizes, st.integers(1, 9), st.integers(0, 3), st.booleans(), st.data())
def test_every_clip_is_used_exactly_once(rows: int, size: dict, micro: int, epoch: int, shuffle: bool, data):
    clips = _clips(rows)
    plan = _plan(clips, micro_batches=micro, shuffle=shuffle, **size)
    steps = plan.epoch(epoch)
    assert sorted(itertools.chain(*(part for step in steps for part in step.micro))) == list(range(rows))
    assert [step.first_sample for step in steps] == [0, *(step.next_sample for step in steps)][:-1]
    assert sum(step.supervised for step in steps) == clips[2].sum()
    for number, step in enumerate(steps):
        assert len(step.micro) == micro
        assert sorted(itertools.chain(*step.micro)) == sorted(step.samples.tolist())
        counts = [len(part) for part in step.micro]
        if plan.batch_size:
            full = number < len(steps) - 1 or rows % (plan.batch_size * micro) == 0
            assert max(counts) <= plan.batch_size and max(counts) - min(counts) <= (0 if full else 1)
        else:
            assert max(clips[0][part].sum() for part in step.micro) <= plan.max_tokens
    # From any place of the stream on, just the clips after it are used.
    first = data.draw(st.integers(0, rows))
    rest = [i for step in plan.epoch(epoch, first) for part in step.micro for i in part]
    assert sorted(rest) == sorted(plan.stream(epoch)[first:].tolist())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.sampled_from([(1, 24), (2, 12), (3, 8), (6, 4), (12, 2), (24, 1)]),
    st.integers(0, 2),
)
def test_a_step_has_the_same_clips_however_it_is_divided(rows: int, division: tuple[int, int], epoch: int):
    clips = _clips(rows)
    micro, size = division
    steps = _plan(clips, micro_batches=micro, batch_size=size).epoch(epoch)
    whole = _plan(clips, micro_batches=1, batch_size=24).epoch(epoch)
    assert [step.samples.tolist() for step in steps] == [step.samples.tolist() for step in whole]
    assert [step.supervised for step in steps] == [step.supervised for step in whole]


@pytest.mark.parametrize(("micro", "tokens"), [(1, 8000), (2, 4000), (4, 2000)])
def test_a_step_of_tokens_has_the_same_clips_however_it_is_divided(micro: int, tokens: int):
    clips = _clips(2000)
    steps = _plan(clips, micro_batches=micro, max_tokens=tokens).epoch(0)
    whole = _plan(clips, micro_batches=1, max_tokens=8000).epoch(0)
    assert [step.samples.tolist() for step in steps] == [step.samples.tolist() for step in whole]


def test_a_run_goes_on_from_the_same_clip_with_other_numbers_of_processes():
    clips = _clips(500)
    first = _plan(clips, micro_batches=4, batch_size=8).epoch(2)[:5]
    place = first[-1].next_sample
    rest = _plan(clips, micro_batches=3, batch_size=7).epoch(2, place)
    stream = _plan(clips, micro_batches=1, batch_size=1).stream(2).tolist()
    done = [i for step in [*first, *rest] for i in step.samples.tolist()]
    assert done == stream and rest[0].first_sample == place


def test_the_stream_depends_on_seed_and_epoch_alone():
    clips = _clips(1000)
    one, other = _plan(clips, batch_size=1), _plan(clips, max_tokens=500, micro_batches=7)
    np.testing.assert_array_equal(one.stream(3), other.stream(3))
    assert one.stream(3).tolist() != one.stream(4).tolist()
    assert one.stream(3).tolist() != _plan(clips, batch_size=1, seed=2).stream(3).tolist()


def test_the_stream_is_the_same_tomorrow_and_elsewhere():
    """A run that goes on after an upgrade of numpy must find the same order: committed values."""
    clips = (np.arange(1, 101), np.full(100, 16000), np.ones(100))
    plan = _plan(clips, batch_size=4, seed=42)
    assert plan.stream(0)[::33].tolist() == [81, 39, 1, 27]
    assert plan.stream(7)[::33].tolist() == [67, 75, 10, 74]
    assert batching._shuffled(6, 42, 0).tolist() == [1, 4, 3, 5, 0, 2]


def test_each_step_has_its_share_of_short_and_of_long_clips():
    clips = _clips(20_000)
    stream = _plan(clips, batch_size=8).stream(0)
    full = clips[0][stream][: 20_000 // 8 * 8].reshape(-1, 8)
    by_chance = clips[0][np.random.default_rng(0).permutation(20_000)].reshape(-1, 8)
    assert full.sum(1).std() < 0.5 * by_chance.sum(1).std()
    assert full.sum(1).max() < by_chance.sum(1).max()
    # Of every eight, one comes from each eighth of its pool by length.
    pool = clips[0][stream[:POOL]]
    eighths = np.argsort(np.argsort(pool, kind="stable"), kind="stable").reshape(-1, 8) * 8 // POOL
    assert (np.sort(eighths, axis=1) == np.arange(8)).mean() > 0.9  # but for clips of one length


def test_the_order_is_still_a_random_one():
    clips = _clips(20_000)
    plan = _plan(clips, batch_size=8)
    streams = [plan.stream(epoch) for epoch in range(20)]
    lengths = clips[0][streams[0]]
    assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.02
    # Short and long ones take turns in no fixed way, and neighbours change from epoch to epoch.
    firsts = [clips[0][stream[0]] for stream in streams]
    assert min(firsts) < np.quantile(lengths, 0.4) and max(firsts) > np.quantile(lengths, 0.6)
    neighbours = [{frozenset(pair) for pair in s[:20_000].reshape(-1, 2).tolist()} for s in streams[:2]]
    assert len(neighbours[0] & neighbours[1]) < 10
    few = _plan(tuple(part[:8] for part in clips), batch_size=4)
    assert len({frozenset(few.stream(epoch)[:4].tolist()) for epoch in range(20)}) > 4


def test_evaluation_goes_by_length_the_longest_first():
    clips = _clips(300)
    plan = _plan(clips, batch_size=8, micro_batches=3, shuffle=False)
    assert (np.diff(clips[0][plan.stream(0)]) <= 0).all()
    np.testing.assert_array_equal(plan.stream(0), plan.stream(5))


@pytest.mark.parametrize("size", [{"batch_size": 8}, {"max_tokens": 3000}])
def test_every_micro_batch_has_the_same_work(size: dict):
    clips = _clips(30_000)
    plan = _plan(clips, micro_batches=64, **size)
    work = [np.array([plan.work[part].sum() for part in step.micro]) for step in plan.epoch(0)]
    assert np.mean([w.mean() / w.max() for w in work[:-1]]) > 0.97
    dice = np.random.default_rng(0).permutation(30_000)[: 30_000 // 512 * 512].reshape(-1, 64, 8)
    by_chance = [plan.work[step].sum(axis=1) for step in dice]
    assert np.mean([w.mean() / w.max() for w in by_chance]) < 0.9


def test_the_budget_is_used():
    plan = _plan(_clips(30_000), micro_batches=16, max_tokens=4000)
    used = [plan.tokens[step.samples].sum() / 64_000 for step in plan.epoch(0)]
    assert FILL - 0.01 < np.mean(used[:-1]) <= FILL


def test_clips_nearly_as_long_as_the_budget_still_fit():
    tokens = np.array([600] * 7 + [100] * 5 + [399] * 3)
    plan = Plan(tokens, tokens * 100, tokens, seed=0, micro_batches=4, max_tokens=1000)
    for step in plan.epoch(0):
        assert all(plan.tokens[part].sum() <= 1000 for part in step.micro)
    with pytest.raises(DataError, match="row 1 of the dataset has 600 tokens; give at least 600"):
        Plan(tokens, tokens, tokens, seed=0, micro_batches=1, max_tokens=599)
    with pytest.raises(DataError, match="no rows"):
        Plan([], [], [], seed=0, micro_batches=1, batch_size=1)


def test_work_is_counted_as_the_geometry_has_it():
    tokens, samples, supervised = _clips(200)
    costs = Costs(patch=0.3, supervised=0.2, token_pair=0.01, patch_pair=0.02)
    work = clip_work(tokens, samples, supervised, GEOMETRY, costs)
    for i in range(200):
        patches = [total for total, _ in GEOMETRY.chunks(int(samples[i]))]
        expected = tokens[i] + 0.01 * tokens[i] ** 2 + 0.3 * sum(patches) + 0.2 * supervised[i]
        expected += 0.02 * sum(n * n for n in patches)
        assert work[i] == pytest.approx(expected)


def test_costs_come_from_the_config():
    published = {
        "text_config": {
            "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "intermediate_size": 18944, "vocab_size": 152064,
        },
        "audio_encoder_config": {"embed_dim": 1280, "depth": 32, "mlp_ratio": 4},
    }  # fmt: skip
    costs = Costs.from_config(published)
    assert costs.patch == pytest.approx(Costs().patch, rel=0.02)
    assert costs.supervised == pytest.approx(Costs().supervised, rel=0.02)
    assert costs.token_pair == pytest.approx(Costs().token_pair, rel=0.05)
    assert costs.patch_pair == pytest.approx(Costs().patch_pair, rel=0.05)
    tiny = Costs.from_config(json.loads((TINY / "config.json").read_text()))
    assert tiny.patch > 1  # there the encoder is the larger part
    assert Costs.from_config({}) == Costs()


def test_a_million_rows_are_planned_lazily_and_in_little_memory():
    code = (
        "import numpy as np, resource\n"
        "from mdl_toolkit.data.batching.plan import Plan\n"
        "from mdl_toolkit.training.batches.order import RunOrder\n"
        "n = 1_000_000; t = np.random.default_rng(0).integers(20, 300, n)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "plan = Plan(t, t * 3000, t // 4, seed=0, micro_batches=8, max_tokens=4000)\n"
        "epoch = plan.epoch(0); first = epoch[0].micro; last = epoch[-1].micro\n"
        "print(len(epoch), RunOrder(plan, 1.5).total_steps, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    steps, longer, megabytes = map(int, done.stdout.split())
    assert 5000 < steps < 5600 and longer == pytest.approx(1.5 * steps, rel=0.01)
    assert megabytes < 200


def test_splitting_again_and_again_is_the_same():
    plan = _plan(_clips(100), micro_batches=4, batch_size=8)
    assert [s.micro for s in plan.epoch(0)] == [s.micro for s in plan.epoch(0)]
    step = plan.epoch(0)[0]
    assert step.micro is step.micro  # made once
    assert plan.epoch(0)[-1].first_sample == plan.epoch(0)[len(plan.epoch(0)) - 1].first_sample
    with pytest.raises(IndexError):
        plan.epoch(0)[99]


def test_clips_that_fit_nowhere_are_told():
    work = np.array([3.0, 2.0, 1.0])
    tokens = np.array([6, 6, 6])
    assert split_by_tokens(np.arange(3), work, tokens, 2, 10) is None
    assert split_by_tokens(np.arange(3), work, tokens, 3, 10) == [[0], [1], [2]]
