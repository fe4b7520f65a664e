"""`fuseray shards VERB`: builds shards from images and captions, and indexes existing shards."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from orchestrator.cli.console import endpoint_option, json_option
from orchestrator.cli.main import LazyGroup
from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.storage.location import Location
    from orchestrator.stream.shards.build import BuildOptions, BuildResult
    from orchestrator.stream.shards.lists.choices import SampleUnit, SplitChoice
    from orchestrator.stream.shards.sources import Source


VERBS = {
    "build": ("orchestrator.cli.shards.build:build_command", "Build shards from a folder of images or a list of them."),
    "index": ("orchestrator.cli.shards.index:command", "Index shards that exist."),
    "inspect": ("orchestrator.cli.shards.check:inspect_command", "Print samples and write a contact sheet."),
    "verify": ("orchestrator.cli.shards.check:verify_command", "Find samples and shards that cannot be used."),
    "stats": (
        "orchestrator.cli.shards.stats:command",
        "Show caption lengths, image sizes and how well the order shuffles.",
    ),
}


@click.command(cls=LazyGroup, verbs=VERBS)
def command() -> None:
    """Build, index and check image-text shards."""


INTERRUPTED = 130


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("destination", metavar="DEST")
@click.option(
    "--image-root",
    metavar="URI",
    help="What relative paths in annotation files start from; default: the folder of the first.",
)
@endpoint_option
@click.option("--split", default="", help="Take this split of a list that has several: train, restval, val, test ...")
@click.option("--restval/--no-restval", default=True, help="Whether --split train takes COCO's restval along.")
@click.option(
    "--samples-per",
    type=click.Choice(["entry", "image", "caption"]),
    default="entry",
    show_default=True,
    help="What becomes a sample: an entry of the list, an image with all its captions, or a caption with its image.",
)
@click.option(
    "--format",
    "shard_format",
    type=click.Choice(["webdataset", "parquet"]),
    default="webdataset",
    show_default=True,
    help="Kind of shards.",
)
@click.option(
    "--samples-per-shard",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Entries of the source that go into a shard.",
)
@click.option("--workers", type=click.IntRange(min=1), default=16, show_default=True, help="Files read at once.")
@click.option(
    "--max-bad-share",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of the samples that may be unusable; more is an error.",
)
@json_option
def build_command(
    sources: tuple[str, ...],
    destination: str,
    image_root: str | None,
    endpoint: str | None,
    split: str,
    restval: bool,
    samples_per: Literal["entry", "image", "caption"],
    shard_format: Literal["webdataset", "parquet"],
    samples_per_shard: int,
    workers: int,
    max_bad_share: float,
    as_json: bool,
) -> None:
    """Build indexed shards in DEST from a folder of images, or from files that list images and captions.

    In a folder every image (.jpg, .png, .webp) has its captions in a file of the same name: KEY.jpg with KEY.txt, or
    with "caption" or "captions" in KEY.json. Other JSON keys are kept. SOURCE and DEST may be local or s3:// URIs.

    Of files that list images these forms are known: ALBEF's [{"image": PATH, "caption": TEXT or [TEXT, ...]}, ...] and
    the same with an object a line, metadata.jsonl with "file_name" and "text", COCO's captions, Karpathy's splits of
    COCO and Flickr30k as they come (dataset_coco.json), {PATH: TEXT or [TEXT, ...]}, and tables with tabs or commas
    whose header names the columns, or that have a path and a caption a line.

    Images are stored as they are. Samples that cannot be used are listed in DEST/rejected.jsonl with the reason. After
    an interruption, run it again: it continues with the remaining shards.
    """
    from orchestrator.storage.location import locate
    from orchestrator.stream.shards.build import BuildOptions
    from orchestrator.stream.shards.lists.choices import SplitChoice

    source = _source(sources, image_root, endpoint, SplitChoice(split, restval), samples_per)
    location = locate(destination, endpoint)
    _check_destination(source, location)
    options = BuildOptions(
        shard_format=shard_format, samples_per_shard=samples_per_shard, readers=workers, max_bad_share=max_bad_share
    )
    try:
        result = _build(source, location, options, as_json)
    except KeyboardInterrupt:
        click.echo(f"interrupted; run the same command again to continue with {location.uri}", err=True)
        sys.exit(INTERRUPTED)
    _print_result(location.uri, result, as_json)


def _source(
    sources: tuple[str, ...], image_root: str | None, endpoint: str | None, split: SplitChoice, unit: SampleUnit
) -> Source:
    from orchestrator.storage.location import locate
    from orchestrator.stream.shards.lists.annotations import AnnotationFiles
    from orchestrator.stream.shards.lists.choices import with_samples_per
    from orchestrator.stream.shards.sources import ImageFolder

    locations = tuple(locate(source, endpoint) for source in sources)
    folder = next((location for location in locations if not _is_file(location)), None)
    if folder is None:
        root = locate(image_root, endpoint) if image_root else None
        return with_samples_per(AnnotationFiles(locations, root, endpoint, split), unit)
    if len(locations) > 1:
        raise ConfigError(f"SOURCE: {folder.uri} is a folder; name one folder, or any number of annotation files.")
    of_lists = {"--image-root": image_root, "--split": split.name, "--samples-per": unit != "entry"}
    if given := next((option for option, value in of_lists.items() if value), None):
        raise ConfigError(f"{given}: belongs to annotation files; {folder.uri} is a folder, with its images in it.")
    return ImageFolder(folder)


def _is_file(location: Location) -> bool:
    """Return whether a source is a file, and not a folder.

    Raises:
        StorageError: there is neither.
    """
    from orchestrator.storage.retry import StorageError

    if location.size() is not None:
        return True
    if location.exists():
        return False
    raise StorageError(f"{location.uri}: does not exist; name a folder of images, or files that list them.")


def _check_destination(source: Source, destination: Location) -> None:
    from orchestrator.stream.shards.sources import ImageFolder

    if destination.size() is not None:
        raise ConfigError(f"{destination.uri}: is a file; DEST, the last argument, is the folder for the shards.")
    if isinstance(source, ImageFolder) and f"{destination.uri}/".startswith(f"{source.folder.uri}/"):
        raise ConfigError(f"{destination.uri}: is in the folder that the images are in; name another destination.")


def _build(source: Source, location: Location, options: BuildOptions, quiet: bool) -> BuildResult:
    from orchestrator.cli.console import shard_progress
    from orchestrator.stream.shards.build import build_annotated

    with shard_progress("rejected", quiet) as progress:
        return build_annotated(source, location, options, progress)


def _print_result(uri: str, result: BuildResult, as_json: bool) -> None:
    rejected: dict[str, Any] = dict(result.rejected)
    if as_json:
        counts = {"samples": result.samples, "shards": result.shards, "repeated_images": result.repeated_images}
        left_out = dict(result.left_out)
        click.echo(json.dumps({"destination": uri, **counts, "rejected": rejected, "left_out": left_out}))
        return
    if result.repeated_images:
        click.echo(
            f"{result.repeated_images} entries name an image that an earlier one names; their keys end in #2, #3 ..."
        )
    if result.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.left_out.items())
        click.echo(f"not taken: {kinds}; images are .jpg, .jpeg, .png and .webp, captions .txt and .json")
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        click.echo(f"{sum(rejected.values())} rejected ({reasons}); they are listed in {uri}/rejected.jsonl")
    click.echo(f"{result.samples} samples in {result.shards} shards; the index is {uri}/index.parquet")
