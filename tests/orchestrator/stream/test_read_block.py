"""A block's micro-batches are the same wherever they are decoded, and every block of a round has equally many rows."""

from pathlib import Path

import numpy as np
import pytest
from shards import write_shards
from streams import SEED, make_reader, read_batches
from toy_workload import ToyTransform

from orchestrator.stream.decoder import Decoder
from orchestrator.stream.ray_dataset import ReadBlock, ReadPlan, unpack_block

ROWS = 8
NUMBERS = (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(("share", "decoded"), [(0.0, 0), (0.4, 2), (0.5, 3), (1.0, 6)])
def test_a_share_of_every_block_is_decoded_and_all_of_it_arrives(tmp_path: Path, share: float, decoded: int) -> None:
    reader = make_reader(write_shards(str(tmp_path), 60))
    decoder = Decoder(ToyTransform(), SEED)
    (block,) = ReadBlock(ReadPlan(reader, decoder, share), NUMBERS, ROWS)()
    assert block.num_rows == ROWS
    parcels = list(unpack_block(block))
    assert sum(parcel.about is not None for parcel in parcels) == decoded
    arrived = [parcel.open(decoder) for parcel in parcels]
    for batch, expected in zip(arrived, read_batches(reader, NUMBERS), strict=True):
        assert (batch.number, batch.keys, batch.fingerprint) == (expected.number, expected.keys, expected.fingerprint)
        np.testing.assert_array_equal(batch.features["image"], expected.features["image"])


def test_what_the_readers_decode_is_spread_evenly() -> None:
    read_plan = ReadPlan(None, None, 0.4)  # type: ignore[arg-type]
    assert [offset for offset in range(10) if read_plan.decodes(offset)] == [2, 4, 7, 9]
