"""Image-text pairs as users have them: folders and JSON lists."""

from __future__ import annotations

import json
from pathlib import Path

from shards import picture

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.dataset.samples import ShardRows, read_samples
from orchestrator.stream.shards.lists.annotations import AnnotationFiles
from workloads.contract import Sample


def write_list(folder: Path, count: int, missing: tuple[int, ...] = ()) -> AnnotationFiles:
    """Write pictures and an ALBEF list of them in which every third entry has two captions."""
    (folder / "photos").mkdir(parents=True)
    entries = []
    for number in range(count):
        if number not in missing:
            (folder / f"photos/{number:03d}.png").write_bytes(picture(number))
        captions = [f"photo {number}", "a patch of colours"] if number % 3 == 0 else f"photo {number}"
        entries.append({"image": f"photos/{number:03d}.png", "caption": captions, "image_id": number})
    (folder / "list.json").write_text(json.dumps(entries))
    return AnnotationFiles((locate(str(folder / "list.json")),))


def stored(folder: Path) -> list[Sample]:
    """Return the samples of a data set in storage order; all of them must be readable."""
    place = locate(str(folder))
    index = read_index(place)
    wanted = [
        ShardRows(place / name, range(count)) for name, count in zip(index.shards, index.samples.tolist(), strict=True)
    ]
    samples = [content for contents in read_samples(place, index, wanted) for content in contents]
    assert all(isinstance(sample, Sample) for sample in samples)
    return samples  # type: ignore[return-value]
