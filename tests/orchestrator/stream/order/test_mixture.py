"""A mixture gives every source its exact share, in order, at any position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.errors import ConfigError
from orchestrator.stream.order.mixture import CYCLE, Mixture

weights = st.lists(st.floats(0.01, 10), min_size=1, max_size=6)
mixtures = st.builds(Mixture.of, weights, st.integers(0, 2**31))


@settings(deadline=None)
@given(mixtures, st.integers(0, 10**7), st.integers(1, 300))
def test_places_of_each_source_follow_one_another(mixture: Mixture, start: int, length: int) -> None:
    sources, places = mixture.locate(np.arange(start, start + length))
    before, after = mixture.samples_before(start), mixture.samples_before(start + length)
    assert sum(before) == start
    for source, (first, stop) in enumerate(zip(before, after, strict=True)):
        assert places[sources == source].tolist() == list(range(first, stop))


@settings(deadline=None)
@given(mixtures, st.integers(0, 10**6))
def test_shares_hold_exactly_in_every_cycle(mixture: Mixture, cycle: int) -> None:
    sources, _ = mixture.locate(np.arange(CYCLE) + cycle * CYCLE)
    assert tuple(np.bincount(sources, minlength=len(mixture.quotas))) == mixture.quotas


@settings(deadline=None)
@given(mixtures, st.lists(st.integers(0, 5 * CYCLE), max_size=5))
def test_any_slicing_gives_the_same(mixture: Mixture, cuts: list[int]) -> None:
    positions = np.arange(5 * CYCLE)
    sources, places = mixture.locate(positions)
    parts = [mixture.locate(part) for part in np.split(positions, sorted(cuts))]
    assert (np.concatenate([part[0] for part in parts]) == sources).all()
    assert (np.concatenate([part[1] for part in parts]) == places).all()


@settings(deadline=None)
@given(mixtures, st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_positions_may_come_in_any_order_and_repeat(mixture: Mixture, positions: list[int]) -> None:
    together = np.stack(mixture.locate(np.array(positions)))
    alone = [np.concatenate(mixture.locate(np.array([position]))) for position in positions]
    assert (np.array(alone) == together.T).all()


@settings(deadline=None)
@given(weights)
def test_quotas_are_the_shares_rounded_up_or_down(weights: list[float]) -> None:
    quotas = Mixture.of(weights, 0).quotas
    shares = np.array(weights) / sum(weights) * CYCLE
    assert sum(quotas) == CYCLE
    assert (np.abs(np.array(quotas) - shares) < 1 + 1e-9).all()


@pytest.mark.parametrize(
    ("weights", "quotas"),
    [
        ([1.0], (4096,)),
        ([1, 1, 1], (1366, 1365, 1365)),
        ([0.75, 0.25], (3072, 1024)),
        ([4095, 1], (4095, 1)),
        ([3e6, 1e6], (3072, 1024)),
    ],
)
def test_largest_remainders(weights: list[float], quotas: tuple[int, ...]) -> None:
    assert Mixture.of(weights, 0).quotas == quotas


def test_a_single_source_has_every_position() -> None:
    positions = np.array([0, 5, 10**12])
    sources, places = Mixture.of([0.3], 1).locate(positions)
    assert sources.tolist() == [0, 0, 0]
    assert places.tolist() == positions.tolist()
    assert Mixture.of([0.3], 1).samples_before(77) == (77,)


def test_sources_take_turns_within_a_micro_batch_and_cycles_and_seeds_differ() -> None:
    mixture = Mixture.of([1, 1], seed=1)
    sources, _ = mixture.locate(np.arange(2 * CYCLE))
    first, second = sources.reshape(2, CYCLE)
    assert (first != second).any()
    assert (first != Mixture.of([1, 1], seed=2).locate(np.arange(CYCLE))[0]).any()
    counts = first.reshape(-1, 64).sum(axis=1)
    assert counts.min() >= 12
    assert counts.max() <= 52


def test_the_mixture_is_pinned_so_that_old_runs_resume() -> None:
    sources, places = Mixture.of([5, 3], seed=7).locate(np.arange(3 * CYCLE, 3 * CYCLE + 12))
    assert sources.tolist() == [0, 0, 1, 0, 0, 1, 1, 1, 0, 1, 0, 1]
    assert places.tolist() == [7680, 7681, 4608, 7682, 7683, 4609, 4610, 4611, 7684, 4612, 7685, 4613]  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "no data sets"),
        ([1, 0], r"data\.mix\.1\.weight: is 0; give a positive number"),
        ([-1.5, 1], r"data\.mix\.0\.weight: is -1\.5"),
        ([1, float("nan")], "is nan"),
        ([float("inf"), 1], "is inf"),
        ([1e308, 1e308], "add up to infinity"),
        ([1, 1e-5], r"data\.mix\.1\.weight: 1e-05 is 1e-05 of the whole.*multiples of 1/4096.*leave it out"),
    ],
)
def test_wrong_weights_are_refused_with_the_place_and_the_fix(weights: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture.of(weights, 0)
