"""A group of verbs, one module each, imported only when the verb is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class Verbs(click.Group):
    """A group that imports a verb's module only when the verb is used.

    Args:
        modules: name of the module of each verb; it holds the click command `command`.
        about: what each verb does, in the order in which one meets them.
    """

    def __init__(self, modules: str, about: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._modules = modules
        self._about = about

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which one meets them."""
        return list(self._about)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in self._about:
            return None
        command: click.Command = import_module(f"{self._modules}{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(self._about.items()))
