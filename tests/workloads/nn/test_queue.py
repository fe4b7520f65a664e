import pytest
import torch

from workloads.nn.momentum import FeatureQueue


def rows(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].repeat(1, 2)


def filled(*counts: int) -> FeatureQueue:
    queue, first = FeatureQueue(2, 5), 0
    for count in counts:
        queue.enqueue(rows(first, count), -rows(first, count))
        first += count
    return queue


@pytest.mark.parametrize(
    ("counts", "columns", "pointer"),
    [
        ((5,), [0, 1, 2, 3, 4], 0),
        ((3, 3), [5, 1, 2, 3, 4], 1),
        ((3, 2, 4), [5, 6, 7, 8, 4], 4),
        ((1, 12), [10, 11, 12, 8, 9], 3),
    ],
)
def test_rows_enter_in_order_and_wrap_around(counts: tuple[int, ...], columns: list[int], pointer: int) -> None:
    queue = filled(*counts)
    assert queue.image_queue[0].tolist() == columns
    assert torch.equal(queue.text_queue, -queue.image_queue)
    assert queue.queue_ptr.tolist() == [pointer]


def test_no_rows_change_nothing() -> None:
    queue = filled(5, 0)
    assert queue.image_queue[0].tolist() == [0, 1, 2, 3, 4]


def test_starts_with_unit_columns_of_the_generator() -> None:
    first, second = (FeatureQueue(8, 4, torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(first.image_queue.norm(dim=0), torch.ones(4))
    assert torch.equal(first.text_queue, second.text_queue)
    assert not torch.equal(first.text_queue, first.image_queue)


def test_a_queue_of_size_zero_stays_empty() -> None:
    queue = FeatureQueue(width=3, size=0)
    queue.enqueue(torch.ones(5, 3), torch.ones(5, 3))
    assert queue.image_queue.shape == (3, 0)
    assert queue.queue_ptr.item() == 0
