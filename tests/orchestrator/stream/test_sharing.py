"""Every micro-batch of every step has exactly one worker, and blocks reach workers in the order of the deal."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stream.sharing import Sharing


@st.composite
def sharings(draw: st.DrawFn) -> Sharing:
    micro_batches = draw(st.integers(1, 16))
    workers = draw(st.integers(1, min(8, micro_batches)))
    steps = draw(st.integers(1, 40))
    return Sharing(micro_batches, workers, draw(st.integers(1, 12)), draw(st.integers(0, steps - 1)), steps)


@given(sharings())
def test_each_micro_batch_runs_once(sharing: Sharing) -> None:
    for step in range(sharing.first_step, sharing.steps):
        shares = [sharing.share(step, worker) for worker in range(sharing.workers)]
        expected = list(sharing.micro_batches_of(range(step, step + 1)))
        assert sorted(number for share in shares for number in share) == expected


@given(sharings())
def test_shares_differ_by_at_most_one_micro_batch_in_every_step(sharing: Sharing) -> None:
    for step in range(sharing.first_step, sharing.steps):
        counts = [len(sharing.share(step, worker)) for worker in range(sharing.workers)]
        assert max(counts) - min(counts) <= 1


@given(sharings())
def test_segments_cover_the_remaining_steps(sharing: Sharing) -> None:
    steps = [step for segment in sharing.segments() for step in segment]
    assert steps == list(range(sharing.first_step, sharing.steps))


@given(sharings())
def test_dealing_blocks_round_robin_gives_each_worker_its_shares_in_order(sharing: Sharing) -> None:
    for segment in sharing.segments():
        numbers = sharing.micro_batches_of(segment)
        blocks = [numbers[start : start + sharing.block] for start in range(0, len(numbers), sharing.block)]
        for worker in range(sharing.workers):
            dealt = [number for block in blocks[worker :: sharing.workers] for number in block]
            expected = [number for step in segment for number in sharing.share(step, worker)]
            assert dealt == expected
