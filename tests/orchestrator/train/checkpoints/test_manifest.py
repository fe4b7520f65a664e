"""Manifests verify themselves, and other versions of the format are refused."""

import hashlib
import json

import pytest

from orchestrator.train.checkpoints.manifest import (
    CheckpointError,
    DamagedError,
    FileRecord,
    Manifest,
    add_checksum,
    parse_manifest,
)

FILES = {
    "model-0-of-2-x.safetensors": FileRecord("model.safetensors", 10, hashlib.sha256(b"0").hexdigest()),
    "model-1-of-2-x.safetensors": FileRecord("model.safetensors", 20, hashlib.sha256(b"1").hexdigest()),
    "state-x.json": FileRecord("state.json", 3, hashlib.sha256(b"2").hexdigest()),
}
MANIFEST = Manifest(FILES, {"loss": 0.1, "held_out/recall": 0.25}, "2026-01-01T00:00:00+00:00")


def test_a_manifest_is_read_back() -> None:
    assert parse_manifest(MANIFEST.encoded(), "m") == MANIFEST
    assert MANIFEST.size_bytes == 33
    assert list(MANIFEST.parts("model.safetensors")) == list(FILES)[:2]
    assert MANIFEST.parts("optimizer.safetensors") == {}


def test_figures_that_json_cannot_say_are_left_out() -> None:
    spoilt = Manifest(FILES, {"loss": float("nan"), "norm": float("inf"), "fine": 1.0})
    assert parse_manifest(spoilt.encoded(), "m").metrics == {"fine": 1.0}


def test_no_flipped_bit_goes_unnoticed_unless_it_changes_nothing() -> None:
    content = MANIFEST.encoded()
    for place in range(len(content)):
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        try:
            found = parse_manifest(flipped, "m")
        except CheckpointError:
            continue
        assert found == MANIFEST, place


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_cut_manifest_is_damaged(length: int) -> None:
    with pytest.raises(DamagedError, match="m: is damaged"):
        parse_manifest(MANIFEST.encoded()[:length], "m")


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", add_checksum({"format_version": 3}), b'{"format_version": 2, "files": [1]}']
)
def test_what_is_no_manifest_is_not_taken_for_one(content: bytes) -> None:
    with pytest.raises(CheckpointError):
        parse_manifest(content, "m")


@pytest.mark.parametrize("content", [add_checksum({"format_version": 4, "parts": []}), b'{"format_version": 99}'])
def test_a_newer_version_is_unknown_but_not_damaged(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"m: format version \d+ is not supported \(supported: 3\)") as caught:
        parse_manifest(content, "m")
    assert not isinstance(caught.value, DamagedError)


def test_an_older_version_is_refused_by_its_number() -> None:
    old = {"format_version": 2, "files": {"model.safetensors": {"bytes": 7, "sha256": "abc"}}}
    with pytest.raises(CheckpointError, match=r"m: format version 2 is not supported \(supported: 3\)") as caught:
        parse_manifest(json.dumps(old).encode(), "m")
    assert not isinstance(caught.value, DamagedError)
