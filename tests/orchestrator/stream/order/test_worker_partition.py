"""Every micro-batch of every step has exactly one worker, and blocks reach workers in the order of the deal."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stream.order.partition import WorkerPartition


@st.composite
def sharings(draw: st.DrawFn) -> WorkerPartition:
    micro_batches = draw(st.integers(1, 16))
    workers = draw(st.integers(1, min(8, micro_batches)))
    steps = draw(st.integers(1, 300))
    return WorkerPartition(micro_batches, workers, draw(st.integers(0, steps - 1)), steps, draw(st.integers(1, 20)))


@given(sharings())
def test_each_micro_batch_runs_once(partition: WorkerPartition) -> None:
    for step in range(partition.first_step, partition.steps):
        shares = [partition.micro_batches_of(step, worker) for worker in range(partition.workers)]
        first = step * partition.micro_batches
        assert [number for share in shares for number in share] == [*range(first, first + partition.micro_batches)]


@given(sharings())
def test_shares_differ_by_at_most_one_micro_batch_in_every_step(partition: WorkerPartition) -> None:
    for step in range(partition.first_step, partition.steps):
        counts = [len(partition.micro_batches_of(step, worker)) for worker in range(partition.workers)]
        assert max(counts) - min(counts) <= 1


@given(sharings())
def test_segments_cover_the_remaining_steps(partition: WorkerPartition) -> None:
    steps = [step for segment in partition.segments() for step in segment.steps]
    assert steps == list(range(partition.first_step, partition.steps))


@given(sharings())
def test_the_first_round_has_one_step_so_that_training_starts_early(partition: WorkerPartition) -> None:
    rounds = list(partition.rounds())
    assert len(rounds[0]) == 1
    assert max(len(steps) for steps in rounds) <= partition.block_steps


@given(sharings())
def test_the_splitters_rule_gives_each_worker_its_shares_in_order(partition: WorkerPartition) -> None:
    """The rule: a block goes to the worker with the fewest rows so far, of several to the first."""
    for segment in partition.segments():
        rows = [0] * partition.workers
        dealt: list[list[int]] = [[] for _ in rows]
        for steps in segment.rounds:
            for worker in range(partition.workers):
                receiver = rows.index(min(rows))
                dealt[receiver] += partition.block_micro_batches(steps, worker)
                rows[receiver] += partition.block_rows(steps)
        for worker in range(partition.workers):
            assert dealt[worker] == [
                number for step in segment.steps for number in partition.micro_batches_of(step, worker)
            ]


@given(sharings())
def test_a_block_has_room_for_its_micro_batches(partition: WorkerPartition) -> None:
    for steps in partition.rounds():
        assert all(
            len(partition.block_micro_batches(steps, w)) <= partition.block_rows(steps)
            for w in range(partition.workers)
        )
