"""Small lists of images for retrieval, in the forms in which COCO and Flickr30k are published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards import picture

SPLITS = ("train", "restval", "val", "test", "train", "test")
"""Of the pictures that `write_pictures` writes, in order."""


def write_pictures(folder: Path, count: int = len(SPLITS)) -> None:
    """Write `val2014/0.png` and so on, and the same without the folder."""
    (folder / "val2014").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        for place in (folder / "val2014", folder):
            (place / f"{number}.png").write_bytes(picture(number))


def sentences(number: int, count: int) -> list[dict[str, Any]]:
    """Sentences of a picture as Karpathy's files have them; from the third on, they repeat the second."""
    texts = [f"Picture {number}, sentence {min(place, 1)}." for place in range(count)]
    return [
        {"tokens": text.lower().strip(".").split(), "raw": text, "imgid": number, "sentid": 10 * number + place}
        for place, text in enumerate(texts)
    ]


def coco_image(number: int, **changes: Any) -> dict[str, Any]:
    """An image of dataset_coco.json: two sentences, three in the first."""
    written = sentences(number, 3 if number == 0 else 2)
    image = {
        "filepath": "val2014",
        "sentids": [sentence["sentid"] for sentence in written],
        "filename": f"{number}.png",
        "imgid": number,
        "split": SPLITS[number],
        "sentences": written,
        "cocoid": 1000 + number,
    }
    return {name: value for name, value in {**image, **changes}.items() if value is not None}


def flickr_image(number: int, **changes: Any) -> dict[str, Any]:
    """An image of dataset_flickr30k.json, which has no folder and no second id."""
    split = {"split": "train"} if SPLITS[number] == "restval" else {}
    return coco_image(number, **{"filepath": None, "cocoid": None, **split, **changes})


def document(*images: Any, dataset: str | None = "coco") -> dict[str, Any]:
    """The whole of a file."""
    return {"images": list(images)} | ({"dataset": dataset} if dataset else {})


def write_json(folder: Path, content: Any, name: str = "list.json") -> Path:
    """Write a file and the pictures beside it."""
    write_pictures(folder)
    (folder / name).write_text(json.dumps(content))
    return folder / name


def albef_rows(number: int, count: int = 2, **more: Any) -> list[Mapping[str, Any]]:
    """The rows of a picture in ALBEF's coco_train.json: one for each caption."""
    image_id = f"coco_{1000 + number}"
    return [
        {"caption": text["raw"], "image": f"val2014/{number}.png", "image_id": image_id, **more}
        for text in sentences(number, count)
    ]
