"""Files of shards: ordinary safetensors files, and what is not one is noticed."""

import json

import pytest
import torch
from safetensors.torch import load, save
from saving import alone, assert_same, tensors_of

from orchestrator.train.checkpoints.manifest import CheckpointError, DamagedError
from orchestrator.train.checkpoints.tensors import (
    DTYPES,
    HostBuffers,
    TensorAssembler,
    TensorShard,
    file_header,
    local_shards,
    read_shards,
)


def written(tensors: dict[str, torch.Tensor], rank: int = 0, workers: int = 1) -> bytes:
    header, elements = HostBuffers().stage("model", local_shards(tensors, alone(), rank, workers))
    return header + bytes(elements)


def read(*contents: bytes) -> dict[str, torch.Tensor]:
    assembler = TensorAssembler("checkpoint")
    for content in contents:
        assembler.add(read_shards(memoryview(bytearray(content)), "file"), mapped=False)
    return assembler.tensors()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_shards_are_read_back(workers: int) -> None:
    assert_same(read(*(written(tensors_of(1), rank, workers) for rank in range(workers))), tensors_of(1))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_element_type_survives_and_other_programs_read_it(dtype: torch.dtype) -> None:
    tensors = {"t": torch.arange(6).view(2, 3).to(dtype), "u": torch.arange(5, dtype=torch.uint8)}
    content = written(tensors)
    for found in (read(content), load(content)):
        assert found["t"].dtype == dtype
        assert torch.equal(found["t"].view(torch.uint8), tensors["t"].view(torch.uint8))


def test_files_of_other_programs_are_read() -> None:
    assert_same(read(save(tensors_of(2))), tensors_of(2))


def test_an_element_type_without_a_name_is_refused() -> None:
    shard = TensorShard("phase", torch.zeros(1, dtype=torch.complex128), 0, (1,))
    with pytest.raises(
        CheckpointError, match=r"phase: tensors of torch\.complex128 cannot be saved; use one of .*bfloat16"
    ):
        file_header([shard])


def spoilt(change: str) -> bytes:
    content = written(tensors_of(1))
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    match change:
        case "length":
            return (2**40).to_bytes(8, "little") + content[8:]
        case "text":
            return content[:8] + b"[" + content[9:]
        case "kind":
            entries["bias"]["dtype"] = "F31"
        case "shape":
            entries["bias"]["shape"] = [8]
        case "end":
            return content[: 8 + size + 3]
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


@pytest.mark.parametrize("change", ["length", "text", "kind", "shape", "end"])
def test_what_is_no_file_of_tensors_is_damaged(change: str) -> None:
    with pytest.raises(DamagedError, match="file: is damaged"):
        read(spoilt(change))


@pytest.mark.parametrize(
    ("ranks", "fault"), [((0, 2), "are not the whole tensor"), ((0, 1, 1, 2), "are not the whole tensor")]
)
def test_a_shard_too_few_or_too_many_is_noticed(ranks: tuple[int, ...], fault: str) -> None:
    with pytest.raises(DamagedError, match=fault):
        read(*(written(tensors_of(1), rank, 3) for rank in ranks))


def test_shards_of_other_tensors_do_not_fit() -> None:
    other = {**tensors_of(1), "weight": torch.zeros(5, 7)}
    with pytest.raises(DamagedError, match="a shard of weight does not fit the others"):
        read(*(written(tensors, rank, 6) for rank, tensors in enumerate([tensors_of(1)] + 5 * [other])))


def test_buffers_are_used_again_and_grow() -> None:
    buffers, shards = HostBuffers(), local_shards(tensors_of(1), alone(), 0, 1)
    _, first = buffers.stage("model", shards)
    _, again = buffers.stage("model", local_shards(tensors_of(2), alone(), 0, 1))
    address = torch.frombuffer(first, dtype=torch.uint8).data_ptr()
    assert torch.frombuffer(again, dtype=torch.uint8).data_ptr() == address
    _, larger = buffers.stage("model", local_shards({"t": torch.zeros(999)}, alone(), 0, 1))
    assert len(larger) == 4 * 999
