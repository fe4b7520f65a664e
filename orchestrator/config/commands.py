"""Commands in messages: quoted as a shell needs them, so that they work when they are typed or copied."""

from __future__ import annotations

import shlex

RECIPE = "RECIPE"
"""Stands for the user's recipe in a command, where no file of it is known."""


def command_line(verb: str, *words: object, **options: object) -> str:
    """Return a command of Fuseray for a message.

    Args:
        verb: the verb; verbs of a verb are further words.
        words: its arguments, not quoted. A word in capitals stands for what the user has to fill in.
        options: by name; None and False leave one out, True is a flag.
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    flags = [
        part
        for name, value in given.items()
        for part in (f"--{name.replace('_', '-')}", *(() if value is True else (str(value),)))
    ]
    return shlex.join(["fuseray", verb, *map(str, words), *flags])


def resume_command(run: str, *overrides: str) -> str:
    """Return the command that continues a run.

    Args:
        run: name, path or URI of its folder. The recipe in a folder of this machine is one to continue with.
        overrides: as KEY.PATH=VALUE.
    """
    recipe = f"{run}/recipe.yaml" if run.startswith("/") else RECIPE
    return command_line("train", recipe, "--resume", run, *overrides)


def train_command(recipe: str) -> str:
    """Return the command that trains a recipe that was written somewhere; of a remote one, a copy in this folder."""
    return command_line("train", recipe.rpartition("/")[2] if "://" in recipe else recipe)


def mlflow_command(tracking_uri: str) -> str:
    """Return the command that shows the runs of a tracking URI; of a server, the address to open in a browser."""
    if tracking_uri.startswith(("http://", "https://")):
        return tracking_uri
    return shlex.join(["mlflow", "ui", "--backend-store-uri", tracking_uri])


def upgrade_command(tracking_uri: str) -> str:
    """Return the command that brings a database of MLflow to the version that is installed."""
    return shlex.join(["mlflow", "db", "upgrade", tracking_uri])


def download_command(model: str) -> str:
    """Return the command that downloads a registered model of MLflow."""
    return shlex.join(["mlflow", "artifacts", "download", "--artifact-uri", model])
