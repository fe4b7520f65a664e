"""Annotation files with a list `images`: COCO's captions, and Karpathy's splits of COCO, Flickr30k and Flickr8k.

COCO's have the captions apart (`annotations`), with the id of their image. Those of Karpathy and Li (arXiv 1412.2306),
`dataset_coco.json` and `dataset_flickr30k.json`, have an image's sentences and its split with the image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.shards.lists.json_text import JsonObject, json_fault
from workloads.contract import BadSample

TEXT_SHOWN = 60


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image of a list.

    Args:
        image: its path; empty when the list names none.
        record: `image_id`, `captions`, and the other values of its object.
        fault: what makes it unusable, if the list itself shows it.
        key: of what is no image; empty for images, whose key follows from the path.
    """

    image: str
    record: dict[str, Any]
    fault: BadSample | None = None
    key: str = ""


def is_coco(document: JsonObject) -> bool:
    """Return whether an object has the form of COCO's captions."""
    return isinstance(document.get("images"), list) and isinstance(document.get("annotations"), list)


def coco_images(document: JsonObject, name: str) -> Iterator[ListedImage]:
    """Yield the images with the captions of all annotations that name their id.

    Args:
        document: of the form of COCO's captions.
        name: of the file, for messages.

    Raises:
        DataSetError: a list is there twice, or no annotation has a caption.
    """
    _check_once(document, name)
    images, captions = document["images"], _coco_captions(document["annotations"], name)
    counts = Counter(_id(image, "id") for image in images)
    for image in images:
        number = _id(image, "id")
        record = image if isinstance(image, JsonObject) else JsonObject()
        others = {name: value for name, value in record.items() if name != "id"}
        values = {**others, "image_id": record.get("id"), "captions": captions.pop(number, [])}
        path = _text(record, "image") or _text(record, "file_name")
        yield ListedImage(path, values, json_fault(record) or _ambiguous(number, counts))
    for number in captions:
        if number not in counts:
            missing = BadSample("image is missing", f"none has the id {number}")
            yield ListedImage("", {}, missing, key=f"image_id {number}")


def _check_once(document: JsonObject, name: str) -> None:
    if document.repeated:
        raise DataSetError(f"{name}: has {document.repeated[0]!r} twice; merge the two.")


def _coco_captions(annotations: Sequence[Any], name: str) -> dict[str, list[Any]]:
    """Return the captions of each image id."""
    captions: defaultdict[str, list[Any]] = defaultdict(list)
    for annotation in annotations:
        if isinstance(annotation, JsonObject) and annotation.get("caption") is not None:
            captions[_id(annotation, "image_id")].append(annotation["caption"])
    if annotations and not captions:
        keys = ", ".join(map(repr, annotations[0])) if isinstance(annotations[0], JsonObject) else repr(annotations[0])
        raise DataSetError(
            f"{name}: has COCO's annotations, but none has a 'caption' (the first has {keys[:TEXT_SHOWN]}); "
            "name the file of captions instead, such as captions_train2017.json."
        )
    return dict(captions)


def _id(value: object, name: str) -> str:
    """Return an id as text, since files have the same id as a number here and as a text there."""
    return str(value.get(name)) if isinstance(value, JsonObject) else ""


def _ambiguous(number: str, counts: Counter[str]) -> BadSample | None:
    if counts[number] < 2:
        return None
    return BadSample("image id is ambiguous", f"{counts[number]} images have the id {number}; give each its own")


def is_karpathy(document: JsonObject) -> bool:
    """Return whether an object has the form of Karpathy's splits: images with sentences, if there are any."""
    images = document.get("images")
    if not isinstance(images, list):
        return False
    return not images or any(isinstance(image, JsonObject) and "sentences" in image for image in images)


def karpathy_images(document: JsonObject, name: str) -> Iterator[ListedImage]:
    """Yield the images of all splits, each with its sentences as they are written, in the file's order.

    The path is `filepath/filename` (COCO) or `filename` (Flickr); the image id is `cocoid`, or else `imgid`. The
    file's `dataset` is kept with each image; tokens are not, since they follow from the sentences.

    Args:
        document: of the form of Karpathy's splits.
        name: of the file, for messages.

    Raises:
        DataSetError: a list is there twice.
    """
    _check_once(document, name)
    origin = {"dataset": document["dataset"]} if isinstance(document.get("dataset"), str) else {}
    images = [image if isinstance(image, JsonObject) else JsonObject() for image in document["images"]]
    counts = Counter(str(_karpathy_id(image)) for image in images)
    for image in images:
        values = {name: value for name, value in image.items() if name != "sentences"} | origin
        path = "/".join(part for part in (_text(image, "filepath"), _text(image, "filename")) if part)
        fault = json_fault(image) or _sentence_fault(image)
        if (number := _karpathy_id(image)) is not None:
            values["image_id"] = number
            fault = fault or _ambiguous(str(number), counts)
        values["captions"] = [] if fault else [sentence["raw"] for sentence in image.get("sentences", ())]
        yield ListedImage(path if _text(image, "filename") else "", values, fault)


def _karpathy_id(image: JsonObject) -> Any:
    return image.get("imgid") if image.get("cocoid") is None else image["cocoid"]


def _sentence_fault(image: JsonObject) -> BadSample | None:
    """Return what is wrong with the form of an image's sentences; that there is none is found as in other lists."""
    sentences = image.get("sentences", [])
    if not isinstance(sentences, list):
        return BadSample("caption is malformed", f"'sentences' is {sentences!r}"[:TEXT_SHOWN] + ", and no list")
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, JsonObject) or not isinstance(sentence.get("raw"), str):
            return BadSample("caption is malformed", f"sentence {number} has no text 'raw'")
    return None


def _text(record: JsonObject, name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""
