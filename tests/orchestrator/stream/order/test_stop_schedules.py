"""Whatever the stops and the workers, a run uses the samples of every epoch of every source each once."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.stream.order.mixture import Mixture
from orchestrator.stream.order.partition import WorkerPartition
from orchestrator.stream.order.sample_order import Order

Schedule = list[tuple[int, int]]
"""Runs one after another: steps until the run stops, and its workers."""

schedules = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 8)), min_size=1, max_size=8)
batches = st.tuples(st.integers(1, 16), st.integers(1, 9))
seeds = st.integers(0, 2**31)
knobs = st.tuples(st.integers(1, 40), st.integers(1, 150))


def used_positions(schedule: Schedule, micro_batches: int, size: int, total: int) -> Iterator[int]:
    """Yield the positions that the workers of run after run consume, until `total` samples are used."""
    steps = -(-total // (micro_batches * size))
    first = 0
    for length, workers in [*schedule, (steps, 1)]:
        partition = WorkerPartition(micro_batches, min(workers, micro_batches), first, steps)
        stop = min(first + length, steps)
        for step in range(first, stop):
            for worker in range(partition.workers):
                for number in partition.micro_batches_of(step, worker):
                    yield from range(number * size, min((number + 1) * size, total))
        first = stop


@settings(deadline=None)
@given(schedules, batches, seeds, knobs, st.integers(1, 700), st.integers(1, 3))
def test_each_epoch_of_one_data_set(
    schedule: Schedule, batch: tuple[int, int], seed: int, knobs: tuple[int, int], samples: int, epochs: int
) -> None:
    order = Order(samples, seed, *knobs)
    positions = np.array(list(used_positions(schedule, *batch, epochs * samples)))
    used = Counter(zip((positions // samples).tolist(), order.sample_at(positions).tolist(), strict=True))
    assert used == Counter((epoch, sample) for epoch in range(epochs) for sample in range(samples))


@settings(deadline=None)
@given(
    schedules,
    batches,
    seeds,
    knobs,
    st.lists(st.tuples(st.integers(5, 300), st.floats(0.05, 1)), min_size=2, max_size=4),
    st.integers(1, 3000),
)
def test_each_epoch_of_every_data_set_of_a_mixture(
    schedule: Schedule,
    batch: tuple[int, int],
    seed: int,
    knobs: tuple[int, int],
    sources: list[tuple[int, float]],
    total: int,
) -> None:
    mixture = Mixture.of([weight for _, weight in sources], seed)
    positions = np.array(list(used_positions(schedule, *batch, total)))
    source_of, places = mixture.locate(positions)
    for source, given_out in enumerate(mixture.samples_before(total)):
        samples = sources[source][0]
        numbers = Order(samples, seed, *knobs).sample_at(places[source_of == source])
        whole_epochs, rest = divmod(given_out, samples)
        times = np.bincount(numbers, minlength=samples)
        assert times.sum() == given_out
        assert ((times == whole_epochs) | (times == whole_epochs + 1)).all()
        assert (times == whole_epochs + 1).sum() == rest


@settings(deadline=None)
@given(schedules, batches, seeds)
def test_a_step_uses_the_same_samples_whatever_came_before(
    schedule: Schedule, batch: tuple[int, int], seed: int
) -> None:
    micro_batches, size = batch
    total = 20 * micro_batches * size
    mixture, order = Mixture.of([2, 1], seed), Order(500, seed, 8, 32)
    straight = np.arange(total)
    stopped = np.array(list(used_positions(schedule, micro_batches, size, total)))
    assert (stopped == straight).all()
    assert (order.sample_at(mixture.locate(stopped)[1]) == order.sample_at(mixture.locate(straight)[1])).all()
