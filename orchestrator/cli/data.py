"""`fuseray data CORPUS DEST`: one sub-command per registered corpus, its options taken from the corpus's config."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from orchestrator.spec.registry import corpus_names, find_corpus
from workloads.contract import CorpusEntry


class Corpora(click.Group):
    """A group with a command per corpus."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the registered corpora."""
        return corpus_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make a corpus's command from its config."""
        return _command(cmd_name, find_corpus(cmd_name)) if cmd_name in corpus_names() else None


@click.command(cls=Corpora)
def command() -> None:
    """Build image-text shards from a corpus."""


def _command(name: str, entry: CorpusEntry) -> click.Command:
    def build(destination: str, endpoint: str | None, shard_format: str, samples_per_shard: int, as_json: bool, **options: Any) -> None:
        _build(entry, destination, endpoint, shard_format, samples_per_shard, as_json, options)

    parameters: list[click.Parameter] = [
        click.Argument(["destination"], metavar="DEST"),
        click.Option(["--format", "shard_format"], type=click.Choice(["webdataset", "parquet"]), default="webdataset", show_default=True, help="Kind of shards."),
        click.Option(["--samples-per-shard"], type=click.IntRange(min=1), default=512, show_default=True),
        click.Option(["--endpoint"], help="Address of an S3-compatible server, for s3:// destinations."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for scripts."),
        *(_option(key, field) for key, field in entry.config_type.model_fields.items()),
    ]
    return click.Command(name, params=parameters, callback=build, help=f"{(entry.config_type.__doc__ or '').splitlines()[0]} Writes DEST/train, DEST/held-out ..., each with its index.")


def _option(key: str, field: FieldInfo) -> click.Option:
    kind, many = field.annotation, get_origin(field.annotation) is tuple
    if many:
        kind = get_args(kind)[0]
    alternatives = [inner for inner in get_args(kind) if inner is not type(None)]
    kind = alternatives[0] if alternatives else kind
    flags = f"--{key.replace('_', '-')}"
    if kind is bool:
        return click.Option([f"{flags}/--no-{key.replace('_', '-')}", key], default=field.default, help=field.description)
    default = None if many else field.default
    return click.Option([flags, key], type=kind, multiple=many, default=default, show_default=not many, help=field.description)


def _build(entry: CorpusEntry, destination: str, endpoint: str | None, shard_format: str, samples_per_shard: int, as_json: bool, options: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from orchestrator.cli.counting import counter
    from orchestrator.spec.errors import SpecError
    from orchestrator.storage.location import locate
    from orchestrator.stream.build import build

    try:
        config = entry.config_type.model_validate_json(json.dumps(options))
    except ValidationError as error:
        raise SpecError("; ".join(f"--{'.'.join(map(str, d['loc'])).replace('_', '-')}: {d['msg']}" for d in error.errors())) from error
    place = locate(destination, endpoint)
    with counter("examples", quiet=as_json) as progress:
        built = build(lambda: entry.examples(config), entry.describe(config), place, shard_format, samples_per_shard, progress)  # type: ignore[arg-type]
    found = {"destination": place.uri, "samples": dict(built.samples), "up_to_date": built.up_to_date}
    said = ", ".join(f"{count} {split}" for split, count in sorted(built.samples.items()))
    click.echo(json.dumps(found) if as_json else f"{place.uri}: {said} samples{' (already up to date)' if built.up_to_date else ''}")
