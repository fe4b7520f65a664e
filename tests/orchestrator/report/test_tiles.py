"""A tile shows a sample, or says what is wrong with it."""

from dataclasses import replace

from damage import photo
from shards import samples

from orchestrator.report.images import SIDE, picture_of, tile_of
from orchestrator.stream.dataset.sidecar import Unreadable
from workloads.contract import BadSample


def test_a_sound_sample_is_small_and_has_its_caption() -> None:
    sample = replace(next(samples(1)), image=photo(900))
    picture = picture_of(sample)
    tile = tile_of(sample, picture)
    assert tile.image is not None
    assert tile.image.size == (SIDE, SIDE)
    assert (tile.caption, tile.key, picture.fault) == ("picture number 0 of a patch", "s00000", "")
    assert tile_of(sample, picture, "skipped").caption == "skipped"


def test_faults_stand_in_the_place_of_the_caption() -> None:
    sample = replace(next(samples(1)), image=photo()[:900])
    assert tile_of(sample, picture_of(sample)).caption.startswith("image is truncated")
    unreadable = Unreadable("key", BadSample("caption is missing"))
    assert tile_of(unreadable, picture_of(unreadable)).caption == "caption is missing"
