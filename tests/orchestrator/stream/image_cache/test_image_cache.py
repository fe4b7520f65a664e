"""Whoever asks for an image gets the same pixels, and as long as the cache works each is decoded once."""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from shards import picture
from staged import LIMIT_MB, PATIENT, StagedToy, digest_of, in_order, started

from orchestrator.stream.image_cache.cache import DecodedCache, cache_folder
from workloads.contract import BadSample

IMAGES = [picture(number) for number in range(60)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSERAY_DECODED_CACHE", str(tmp_path / "decoded"))
    return tmp_path / "decoded"


def plain(images: list[bytes]) -> str:
    """The digest of images that were decoded without a cache."""
    return digest_of([StagedToy().pixels(image) for image in images])


def test_a_second_run_decodes_nothing_and_gets_the_same() -> None:
    first, second = StagedToy(), StagedToy()
    assert digest_of(in_order(IMAGES, first)) == digest_of(in_order(IMAGES, second)) == plain(IMAGES)
    assert (first.decoded, second.decoded) == (IMAGES, [])


def test_what_is_written_into_pixels_stays_with_who_did_it() -> None:
    for _ in range(3):
        (pixels,) = in_order(IMAGES[:1], StagedToy())
        assert isinstance(pixels, np.ndarray)
        assert digest_of([pixels]) == plain(IMAGES[:1])
        pixels[:] = 0


def test_a_bad_image_is_bad_each_time_and_no_other_is_moved() -> None:
    images = [IMAGES[0], b"nothing of the kind", IMAGES[1], b"", IMAGES[1]]
    for _ in range(2):
        found = in_order(images, StagedToy())
        faults = [(one.reason, one.detail) for one in found if isinstance(one, BadSample)]
        assert [reason for reason, _ in faults] == ["image is corrupt"] * 2
        assert digest_of([found[0], found[2], found[4]]) == plain([images[0], images[2], images[4]])


def test_another_decoding_shares_nothing() -> None:
    in_order(IMAGES, StagedToy())
    changed = StagedToy(decoding="toy 2")
    in_order(IMAGES, changed)
    assert changed.decoded == IMAGES


def test_threads_share_the_work() -> None:
    transforms = [StagedToy() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda transform: digest_of(in_order(IMAGES, transform)), transforms))
    assert digests == {plain(IMAGES)}
    assert sorted(image for transform in transforms for image in transform.decoded) == sorted(IMAGES)


def test_processes_of_several_runs_share_the_work() -> None:
    ranges = [(0, 60), (0, 60), (20, 80)]
    processes = [started(str(first), str(stop)) for first, stop in ranges]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.communicate()[0]) for process in processes]
    assert [one["digest"] for one in results] == [plain([picture(n) for n in range(*both)]) for both in ranges]
    assert sorted(number for one in results for number in one["decoded"]) == list(range(80))


def test_who_dies_while_decoding_leaves_the_image_to_others() -> None:
    holder = started("hold", "0")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "decoding\n"
    impatient, transform = DecodedCache(LIMIT_MB, timeout_s=0.0), StagedToy()
    assert digest_of(in_order(IMAGES[:2], transform, impatient)) == plain(IMAGES[:2])
    assert sorted(transform.decoded) == sorted(IMAGES[:2])
    transform = StagedToy()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(in_order, IMAGES[:2], transform)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert digest_of(waiting.result()) == plain(IMAGES[:2])
    assert transform.decoded == IMAGES[:1]


def test_processes_killed_at_any_moment_leave_a_usable_cache() -> None:
    for first in range(0, 60, 15):
        process = started("on", str(first))
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        assert digest_of(in_order(IMAGES, StagedToy())) == plain(IMAGES)
        process.kill()
        process.communicate()
    again = StagedToy()
    assert digest_of(in_order(IMAGES, again)) == plain(IMAGES)
    assert again.decoded == []


def test_a_failing_disk_is_said_once_and_loses_no_sample(caplog: pytest.LogCaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        transform = StagedToy()
        assert digest_of(in_order(IMAGES, transform)) == plain(IMAGES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert digest_of(in_order(IMAGES, transform)) == plain(IMAGES)
    assert len(caplog.records) == 1
    assert "is off for this process" in caplog.text
    assert "stream.decoded_cache_mb" in caplog.text


@pytest.mark.parametrize("made_before", [True, False])
def test_a_folder_that_cannot_be_used_is_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture, made_before: bool
) -> None:
    if made_before:
        in_order(IMAGES[:2], StagedToy())
        shutil.rmtree(folder)
    else:
        folder.write_text("not a folder")
    for _ in range(2):
        assert digest_of(in_order(IMAGES, StagedToy())) == plain(IMAGES)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(folder) in caplog.text


def test_a_damaged_head_is_told_to_those_who_use_it_and_mended_for_the_next(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_order(IMAGES, StagedToy())
    (folder / "head").write_bytes(b"\xff" * 24)
    assert digest_of(in_order(IMAGES, StagedToy())) == plain(IMAGES)
    assert "damaged" in caplog.text


def test_a_folder_of_another_size_is_begun_anew_when_nobody_uses_it(folder: Path) -> None:
    for limit_mb, decoded in ((LIMIT_MB, 5), (LIMIT_MB, 0)):
        process = started("0", "5")
        message = json.loads(process.communicate("go\n")[0].splitlines()[-1])
        assert (limit_mb, len(message["decoded"])) == (limit_mb, decoded)
    transform = StagedToy()
    in_order(IMAGES[:5], transform, DecodedCache(LIMIT_MB // 2))
    assert transform.decoded == IMAGES[:5]


def test_a_folder_in_use_keeps_its_size(caplog: pytest.LogCaptureFixture) -> None:
    in_order(IMAGES, StagedToy())
    transform = StagedToy()
    in_order(IMAGES, transform, DecodedCache(LIMIT_MB // 2))
    assert transform.decoded == []
    assert "other running runs" in caplog.text


def test_the_folder_is_in_the_users_cache_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    assert cache_folder() == folder
    monkeypatch.delenv("FUSERAY_DECODED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "fuseray" / "decoded"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "fuseray" / "decoded"


def test_a_cache_travels_small_even_when_it_has_been_used() -> None:
    in_order(IMAGES[:1], StagedToy())
    assert len(pickle.dumps(PATIENT)) < 200
    assert os.environ["FUSERAY_DECODED_CACHE"].encode() not in pickle.dumps(PATIENT)
