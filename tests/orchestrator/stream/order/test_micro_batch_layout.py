"""Lanes keep every epoch whole, and give each micro-batch neighbouring places for as long as a stretch lasts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.stream.order.sample_order import MicroBatchLayout


@st.composite
def layout(draw: st.DrawFn) -> MicroBatchLayout:
    return MicroBatchLayout(*(draw(st.integers(1, limit)) for limit in (3000, 8, 16, 100)))


@given(layout(), st.integers(0, 5))
@settings(deadline=None)
def test_every_epoch_has_its_own_places_once(layout: MicroBatchLayout, epoch: int) -> None:
    positions = np.arange(epoch * layout.epoch, (epoch + 1) * layout.epoch)
    assert np.array_equal(np.sort(layout.permute(positions)), positions)


@given(layout(), st.integers(0, 3))
@settings(deadline=None)
def test_a_place_depends_on_its_position_alone(layout: MicroBatchLayout, offset: int) -> None:
    positions = np.arange(offset, 2 * layout.epoch + 7, 7)
    one_by_one = [layout.permute(positions[i : i + 1]) for i in range(len(positions))]
    assert np.array_equal(layout.permute(positions), np.concatenate(one_by_one))


def test_a_lane_has_neighbouring_places_for_a_stretch() -> None:
    layout = MicroBatchLayout(epoch=1000, micro_batches=3, micro_batch_size=4, window=10)
    assert (layout.lane_window_steps, layout.lane_window) == (2, 8)
    lane_1 = [step * 12 + 4 + i for step in range(4) for i in range(4)]
    assert layout.permute(np.array(lane_1)).tolist() == [*range(8, 16), *range(32, 40)]


def test_blocks_begin_at_multiples_of_their_size_in_every_epoch() -> None:
    layout = MicroBatchLayout(epoch=101, micro_batches=2, micro_batch_size=5, window=10)
    second = layout.permute(np.arange(101, 202))
    assert second[:19].tolist() == [*range(101, 120)]
    assert second[19:39].tolist() == [*range(120, 125), *range(130, 135), *range(125, 130), *range(135, 140)]
    assert second[99:].tolist() == [200, 201]
