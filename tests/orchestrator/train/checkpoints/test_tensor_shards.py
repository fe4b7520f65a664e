"""The workers' shards are all of the tensors, each part once, and equally much for each worker."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from saving import alone, assert_same, tensors_of

from orchestrator.train.checkpoints.tensors import TensorAssembler, TensorShard, local_shards
from orchestrator.train.parallel.base import LocalShard

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.bool]
SHAPES = st.lists(st.integers(0, 5), max_size=3)
TENSORS = st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=8)


def shares(tensors: dict[str, torch.Tensor], workers: int) -> list[list[TensorShard]]:
    return [local_shards(tensors, alone(), rank, workers) for rank in range(workers)]


@given(TENSORS, st.integers(1, 9))
def test_shards_are_the_tensors(kinds: list[tuple[list[int], torch.dtype]], workers: int) -> None:
    tensors = {
        str(i): torch.arange(125)[: shape_size(shape)].view(shape).to(dtype) for i, (shape, dtype) in enumerate(kinds)
    }
    found, assembler = shares(tensors, workers), TensorAssembler("checkpoint")
    for shards in found:
        assembler.add(shards, mapped=False)
    assert_same(assembler.tensors(), tensors)
    sizes = [sum(shard.size_bytes for shard in shards) for shards in found]
    assert max(sizes) - min(sizes) <= 2 * 8


def shape_size(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())


def test_tensors_that_are_not_contiguous_are_cut_in_row_major_order() -> None:
    tensor = torch.arange(12.0).view(3, 4).T
    first, second = shares({"t": tensor}, 2)
    assert torch.equal(torch.cat([first[0].values, second[0].values]), tensor.reshape(-1))
    assert (second[0].start, second[0].shape, second[0].whole) == (6, (4, 3), False)


def test_one_worker_has_whole_tensors_and_no_copies() -> None:
    tensors = tensors_of(1)
    (shards,) = shares(tensors, 1)
    assert all(shard.whole for shard in shards)
    assert {shard.name: shard.values.data_ptr() for shard in shards} == {
        name: tensor.data_ptr() for name, tensor in tensors.items()
    }


class Divided:
    """Two workers, each with its rows of what is called `divided`."""

    def __init__(self, tensor: torch.Tensor, rows: slice, start: int) -> None:
        self._tensor, self._rows, self._start = tensor, rows, start

    def local_shard(self, tensor: torch.Tensor) -> LocalShard | None:
        same = tensor.data_ptr() == self._tensor.data_ptr()
        return LocalShard(tensor[self._rows].reshape(-1), self._start) if same else None


def test_a_worker_writes_its_own_shard_and_its_share_of_the_rest() -> None:
    tensors = {"divided": torch.arange(12.0).view(4, 3), "whole": torch.arange(8.0)}
    first = local_shards(tensors, Divided(tensors["divided"], slice(0, 3), 0), 0, 2)
    second = local_shards(tensors, Divided(tensors["divided"], slice(3, 4), 9), 1, 2)
    places = [[(shard.name, shard.start, shard.values.numel()) for shard in own] for own in (first, second)]
    assert places == [[("divided", 0, 9), ("whole", 0, 4)], [("divided", 9, 3), ("whole", 4, 4)]]
    empty = local_shards(tensors, Divided(tensors["divided"], slice(4, 4), 12), 1, 2)
    assert [shard.name for shard in empty] == ["whole"]
