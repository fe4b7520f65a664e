"""The order is a permutation of every epoch, lazily, at any position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.stream.order.sample_order import Order, Permutation, shuffled
from workloads.contract import KeyedRandom

orders = st.builds(
    Order,
    samples=st.integers(1, 400),
    seed=st.integers(0, 2**31),
    chunk=st.integers(1, 60),
    window=st.integers(1, 200),
)


@settings(deadline=None)
@given(orders, st.integers(0, 3))
def test_every_epoch_holds_every_sample_once(order: Order, epoch: int) -> None:
    positions = np.arange(order.samples) + epoch * order.samples
    assert sorted(order.sample_at(positions)) == list(range(order.samples))


@settings(deadline=None)
@given(orders, st.data())
def test_any_position_can_be_asked_for_alone(order: Order, data: st.DataObject) -> None:
    everything = order.sample_at(np.arange(2 * order.samples))
    position = data.draw(st.integers(0, 2 * order.samples - 1))
    assert order.sample_at(np.array([position]))[0] == everything[position]


@settings(deadline=None)
@given(orders, st.integers(0, 3))
def test_positions_lead_back_to_their_samples(order: Order, epoch: int) -> None:
    positions = np.arange(order.samples) + epoch * order.samples
    assert order.position_of(order.sample_at(positions), epoch).tolist() == positions.tolist()


@settings(deadline=None)
@given(orders, st.data())
def test_the_position_of_a_sample_can_be_asked_for_alone(order: Order, data: st.DataObject) -> None:
    numbers = np.array(data.draw(st.lists(st.integers(0, order.samples - 1), min_size=1, max_size=5)))
    assert order.sample_at(order.position_of(numbers, 2)).tolist() == numbers.tolist()


def test_epochs_and_seeds_differ() -> None:
    order = Order(samples=500, seed=1, chunk=16, window=64)
    epochs = order.sample_at(np.arange(1000)).reshape(2, 500)
    assert (epochs[0] != epochs[1]).any()
    other = Order(samples=500, seed=2, chunk=16, window=64).sample_at(np.arange(500))
    assert (epochs[0] != other).any()


def test_the_order_is_pinned_so_that_old_runs_resume() -> None:
    order = Order(samples=20, seed=7, chunk=4, window=8)
    expected = [5, 4, 6, 7, 0, 1, 3, 2, 19, 9, 16, 17, 8, 18, 11, 10, 14, 15, 13, 12]  # fmt: skip
    assert order.sample_at(np.arange(20)).tolist() == expected


def test_a_window_mixes_only_the_chunks_it_covers() -> None:
    order = Order(samples=1024, seed=3, chunk=16, window=64)
    first_window = order.sample_at(np.arange(64))
    assert len({number // 16 for number in first_window.tolist()}) == 4
    assert first_window.tolist() != sorted(first_window.tolist())


def test_a_billion_samples_need_neither_time_nor_memory() -> None:
    order = Order(samples=10**9, seed=3, chunk=1024, window=16384)
    numbers = order.sample_at(np.arange(987_654_321, 987_654_321 + 256))
    assert len(set(numbers.tolist())) == 256
    assert numbers.min() >= 0
    assert numbers.max() < 10**9


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 255, 1000])
def test_permutation_is_a_bijection_with_an_inverse(size: int) -> None:
    permutation = Permutation(size, KeyedRandom((1, "test", size)))
    images = permutation(np.arange(size))
    assert sorted(images.tolist()) == list(range(size))
    assert permutation.inverse(images).tolist() == list(range(size))


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 100))
def test_shuffled_is_a_keyed_permutation(size: int, key: int) -> None:
    assert sorted(shuffled(size, KeyedRandom((key,)))) == list(range(size))
    assert (shuffled(size, KeyedRandom((key,))) == shuffled(size, KeyedRandom((key,)))).all()
