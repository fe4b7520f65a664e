"""`fuseray data CORPUS DEST`: one sub-command per registered corpus, with options from the corpus's config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import corpus_names, find_corpus
from workloads.contract import CorpusEntry, Section

if TYPE_CHECKING:
    from orchestrator.stream.dataset.index import ShardFormat
    from orchestrator.stream.shards.corpus import CorpusBuild


class CorpusGroup(click.Group):
    """A group with a command per corpus."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the registered corpora."""
        return corpus_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make a corpus's command from its config."""
        return _corpus_command(cmd_name, find_corpus(cmd_name)) if cmd_name in corpus_names() else None


@click.command(cls=CorpusGroup)
def command() -> None:
    """Build image-text shards from a corpus."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how shards are written."""

    destination: str
    endpoint: str | None
    shard_format: ShardFormat
    samples_per_shard: int


def _corpus_command(name: str, entry: CorpusEntry) -> click.Command:
    def run(
        destination: str,
        endpoint: str | None,
        shard_format: ShardFormat,
        samples_per_shard: int,
        as_json: bool,
        **options: Any,
    ) -> None:
        target = Target(destination, endpoint, shard_format, samples_per_shard)
        _show(*_build(entry, _config(entry, options), target, quiet=as_json), as_json)

    about = (entry.config_type.__doc__ or name).splitlines()[0]
    return click.Command(
        name,
        params=[*_target_parameters(), *(_option(key, field) for key, field in entry.config_type.model_fields.items())],
        callback=run,
        help=f"{about} Writes DEST/train, DEST/held-out and so on, each with its index.",
    )


def _target_parameters() -> list[click.Parameter]:
    return [
        click.Argument(["destination"], metavar="DEST"),
        click.Option(
            ["--format", "shard_format"],
            type=click.Choice(["webdataset", "parquet"]),
            default="webdataset",
            show_default=True,
            help="Kind of shards.",
        ),
        click.Option(
            ["--samples-per-shard"],
            type=click.IntRange(min=1),
            default=512,
            show_default=True,
            help="Samples in every shard but the last.",
        ),
        click.Option(["--endpoint"], help="Address of an S3-compatible server, for s3:// destinations."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for scripts."),
    ]


def _option(key: str, field: FieldInfo) -> click.Option:
    """Return the command-line option for a config field: a flag, a value, or a repeatable value for a tuple."""
    flag = f"--{key.replace('_', '-')}"
    if field.annotation is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", key], default=field.default, help=field.description)
    repeated = get_origin(field.annotation) is tuple
    kind = next((inner for inner in get_args(field.annotation) if inner is not type(None)), field.annotation)
    return click.Option(
        [flag, key],
        type=kind,
        multiple=repeated,
        default=None if repeated else field.default,
        show_default=not repeated and field.default is not None,
        help=field.description,
    )


def _config(entry: CorpusEntry, options: dict[str, Any]) -> Section:
    try:
        return entry.config_type.model_validate_json(json.dumps(options))
    except ValidationError as error:
        errors = [f"--{str(detail['loc'][0]).replace('_', '-')}: {detail['msg']}" for detail in error.errors()]
        raise ConfigError("; ".join(errors)) from error


def _build(entry: CorpusEntry, config: Section, target: Target, quiet: bool) -> tuple[str, CorpusBuild]:
    from orchestrator.cli.console import counter
    from orchestrator.storage.location import locate
    from orchestrator.stream.shards.corpus import build

    location = locate(target.destination, target.endpoint)
    with counter("examples", quiet) as progress:
        built = build(
            lambda: entry.examples(config),
            entry.describe(config),
            location,
            target.shard_format,
            target.samples_per_shard,
            progress,
        )
    return location.uri, built


def _show(uri: str, built: CorpusBuild, as_json: bool) -> None:
    if as_json:
        values = {"destination": uri, "source": dict(built.source), "samples": dict(built.samples)}
        click.echo(json.dumps(values | {"up_to_date": built.up_to_date}))
        return
    for name, value in built.source.items():
        if not name.startswith("option "):
            click.echo(f"{name}: {value}")
    counts = ", ".join(f"{count} {split}" for split, count in sorted(built.samples.items()))
    click.echo(f"{uri}: {counts} samples{' (already up to date)' if built.up_to_date else ''}")
