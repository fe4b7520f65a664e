"""The corpus of the ablation: emoji in several drawing styles, with a share of the captions swapped."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.dataset.samples import evenly_spaced, read_numbered
from orchestrator.stream.shards.corpus import build
from workloads.contract import KeyedRandom, Sample
from workloads.corpora.emoji_entry import ENTRY, EmojiConfig

ICON_SETS = ("@iconify-json/noto@1.2.9", "@iconify-json/twemoji@1.2.5", "@iconify-json/fluent-emoji-flat@1.2.6")
"""Further drawing styles beside OpenMoji's, as packages of npm."""

MEASURED_STYLE = "openmoji"
"""The style of the held-out drawings: one for each subject, so that every caption has one image."""

SIZE = 128
HELD_OUT_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Corpus:
    """Samples in memory.

    Args:
        train: of all styles.
        held_out: subjects that no training sample shows, in one style.
        digest: names the sources and their versions.
    """

    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    digest: str

    def without_images(self) -> Corpus:
        """Return the corpus for those who have the images' tokens."""
        train, held_out = (
            tuple(replace(sample, image=b"") for sample in split) for split in (self.train, self.held_out)
        )
        return Corpus(train, held_out, self.digest)


def prepare(folder: Path, iconify: Sequence[Path]) -> Corpus:
    """Build the corpus's shards unless they are there, and read them.

    Args:
        folder: for shards and downloads.
        iconify: `icons.json` files of Iconify sets; without any, `ICON_SETS` are fetched with npm.
    """
    files = tuple(map(str, iconify)) or tuple(str(_fetch(folder / "icons", package)) for package in ICON_SETS)
    config = EmojiConfig(iconify=files, skin_tones=False, size=SIZE, held_out_share=HELD_OUT_SHARE)
    source, shards = ENTRY.describe(config), folder / "shards"
    build(lambda: ENTRY.examples(config), source, locate(str(shards)), "webdataset", 512, _progress)
    train, held_out = (_read(shards / split) for split in ("train", "held-out"))
    measured = tuple(sample for sample in held_out if sample.fields["style"] == MEASURED_STYLE)
    versions = sorted(value for key, value in source.items() if not key.startswith("file ") or "icons.json" in key)
    return Corpus(train, measured, hashlib.sha256(json.dumps(versions).encode()).hexdigest())


def _fetch(folder: Path, package: str) -> Path:
    """Return the `icons.json` of a package of npm, downloaded once; nothing of it is installed or run."""
    name, _, version = package.rpartition("@")
    target = folder / f"{name.rpartition('/')[2]}-{version}"
    if not (target / "icons.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"npm could not fetch {package} ({error}); name icons.json files with --iconify") from None
        with tarfile.open(folder / done.stdout.split()[-1]) as archive:
            archive.extractall(target.with_suffix(".part"), filter="data")
        (target.with_suffix(".part") / "package").rename(target)
    return target / "icons.json"


def _progress(count: int) -> None:
    if count % 1000 == 0:
        print(f"{count} drawings rasterised", file=sys.stderr, flush=True)


def _read(folder: Path) -> tuple[Sample, ...]:
    location = locate(str(folder))
    index = read_index(location)
    contents = [located.content for located in read_numbered(location, index, evenly_spaced(index.total))]
    samples = tuple(content for content in contents if isinstance(content, Sample))
    if len(samples) < len(contents):
        raise SystemExit(f"{folder}: {len(contents) - len(samples)} samples cannot be read; delete it to build it anew")
    return samples


def swap_captions(samples: Sequence[Sample], share: float, seed: int) -> tuple[Sample, ...]:
    """Give a share of the samples, rounded to a whole number, the captions of one another.

    Which samples is decided by a draw keyed by seed and sample; none of them keeps its caption, and no caption is
    lost or doubled.

    Args:
        samples: in any order; keys are unique.
        share: in [0, 1].
        seed: of the draws.

    Raises:
        ValueError: so many of the chosen samples have the same caption that they cannot be swapped.
    """
    draw = KeyedRandom((seed, "swapped captions"))
    order = sorted(range(len(samples)), key=lambda row: draw.child("sample", samples[row].key).seed())
    chosen = sorted(order[: round(share * len(samples))])
    givers = _swapped([samples[row].captions for row in chosen], draw)
    result = list(samples)
    for row, giver in zip(chosen, givers, strict=True):
        result[row] = replace(samples[row], captions=samples[chosen[giver]].captions)
    return tuple(result)


def _swapped(captions: Sequence[tuple[str, ...]], draw: KeyedRandom) -> list[int]:
    """Return a random permutation under which no position gets an equal caption: the first of several tries."""
    for attempt in range(TRIES):
        givers = draw.child("givers", attempt).numpy().permutation(len(captions)).tolist()
        if all(captions[giver] != own for giver, own in zip(givers, captions, strict=True)):
            return givers
    raise ValueError(f"{len(captions)} samples cannot swap captions: too many have the same one")


TRIES = 1000
