"""Every micro-batch of every step has exactly one worker, and blocks reach workers in the order of the deal."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stream.order.partition import Sharing


@st.composite
def sharings(draw: st.DrawFn) -> Sharing:
    micro_batches = draw(st.integers(1, 16))
    workers = draw(st.integers(1, min(8, micro_batches)))
    steps = draw(st.integers(1, 300))
    return Sharing(micro_batches, workers, draw(st.integers(0, steps - 1)), steps, draw(st.integers(1, 20)))


@given(sharings())
def test_each_micro_batch_runs_once(sharing: Sharing) -> None:
    for step in range(sharing.first_step, sharing.steps):
        shares = [sharing.share(step, worker) for worker in range(sharing.workers)]
        first = step * sharing.micro_batches
        assert [number for share in shares for number in share] == [*range(first, first + sharing.micro_batches)]


@given(sharings())
def test_shares_differ_by_at_most_one_micro_batch_in_every_step(sharing: Sharing) -> None:
    for step in range(sharing.first_step, sharing.steps):
        counts = [len(sharing.share(step, worker)) for worker in range(sharing.workers)]
        assert max(counts) - min(counts) <= 1


@given(sharings())
def test_segments_cover_the_remaining_steps(sharing: Sharing) -> None:
    steps = [step for segment in sharing.segments() for step in segment.steps]
    assert steps == list(range(sharing.first_step, sharing.steps))


@given(sharings())
def test_the_first_round_has_one_step_so_that_training_starts_early(sharing: Sharing) -> None:
    rounds = list(sharing.rounds())
    assert len(rounds[0]) == 1
    assert max(len(steps) for steps in rounds) <= sharing.block_steps


@given(sharings())
def test_the_splitters_rule_gives_each_worker_its_shares_in_order(sharing: Sharing) -> None:
    """The rule: a block goes to the worker with the fewest rows so far, of several to the first."""
    for segment in sharing.segments():
        rows = [0] * sharing.workers
        dealt: list[list[int]] = [[] for _ in rows]
        for steps in segment.rounds:
            for worker in range(sharing.workers):
                receiver = rows.index(min(rows))
                dealt[receiver] += sharing.block(steps, worker)
                rows[receiver] += sharing.rows(steps)
        for worker in range(sharing.workers):
            assert dealt[worker] == [number for step in segment.steps for number in sharing.share(step, worker)]


@given(sharings())
def test_a_block_has_room_for_its_micro_batches(sharing: Sharing) -> None:
    for steps in sharing.rounds():
        assert all(len(sharing.block(steps, w)) <= sharing.rows(steps) for w in range(sharing.workers))
