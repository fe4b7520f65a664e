"""Every command of Fuseray or MLflow that a message prints is one that works when it is typed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from mlflow.cli import cli as mlflow_cli

from orchestrator.cli.main import cli
from orchestrator.config.commands import command_line, download_command, mlflow_command, resume_command, train_command

REPOSITORY = Path(__file__).parents[3]
SOURCES = [path for room in ("orchestrator", "workloads") for path in (REPOSITORY / room).rglob("*.py")]
TEMPLATES = list((REPOSITORY / "orchestrator").rglob("*.j2"))
HELPERS = ("command_line", "resume_command", "train_command", "mlflow_command", "download_command")
PROGRAMS = {"fuseray": cli, "mlflow": mlflow_cli}
VALUE = "VALUE"
"""Stands for what an f-string or a call puts in."""

QUOTED = re.compile(r"(?:`|<code>)((?:fuseray|mlflow) [^`<]*)(?:`|</code>)")
BARE = re.compile(r'(?<![\w`>./-])((?:fuseray|mlflow) [^`"\n]*)')
PROSE = ("is", "requires", "allows", "for", "or", "and", "from")
"""Words after the program's name where no command is meant."""


def problem(command: str) -> str:
    """Return what a shell and click would say of a command; empty when they take it."""
    program, *words = shlex.split(command)
    found: click.Command = PROGRAMS[program]
    context = click.Context(found, info_name=program)
    try:
        while isinstance(found, click.Group):
            words = words if type(found).__name__ != "Sweeps" or words[0] in found._verbs else ["run", *words]
            name, following, words = found.resolve_command(context, list(words))
            if following is None:
                return f"no verb {name}"
            found, context = following, click.Context(following, info_name=name, parent=context)
        given, left, _ = found.make_parser(context).parse_args(list(words))
    except (click.ClickException, IndexError) as error:
        return str(error) or "no verb"
    absent = (None, (), click.core.UNSET)
    needed = [each.name for each in found.params if each.required and given.get(each.name) in absent]
    return f"too many arguments: {left}" if left else f"missing: {needed}" if needed else ""


def texts_of(tree: ast.AST) -> Iterator[str]:
    """Yield all texts of a file but docstrings; those of commands are checked as help."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    docstrings |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else _put_in(part) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inside:
            yield node.value


def _put_in(part: ast.expr) -> str:
    """Return a mark for what is put into an f-string: a whole command of a helper, or a value of any kind."""
    value = part.value if isinstance(part, ast.FormattedValue) else part
    called = value.func if isinstance(value, ast.Call) else None
    return "COMMAND" if isinstance(called, ast.Name) and called.id in HELPERS else f"\0{VALUE}"


def commands_in(text: str) -> Iterator[str]:
    """Yield the commands in a text: in backticks, or up to the end of the line or sentence."""
    yield from QUOTED.findall(text)
    for command in BARE.findall(QUOTED.sub("", text)):
        if command.split()[1].strip(".,;:()") not in PROSE:
            yield re.split(r"[.;,:](?:\s|$)| or | to ", command)[0]


def helper_calls(tree: ast.AST) -> Iterator[str]:
    """Yield the commands that calls of `command_line` make."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command_line":
            words = [part.value if isinstance(part, ast.Constant) else VALUE for part in node.args]
            flags = {
                option.arg: True if isinstance(option.value, ast.Constant) and option.value.value is True else VALUE
                for option in node.keywords
                if option.arg
            }
            yield command_line(*words, **flags)


def everything_printed() -> Iterator[tuple[str, str]]:
    for path in SOURCES:
        tree, place = ast.parse(path.read_text()), str(path.relative_to(REPOSITORY))
        if path.name != "commands.py":
            yield from ((place, command) for text in texts_of(tree) for command in commands_in(text))
            yield from ((place, command) for command in helper_calls(tree))
    for path in TEMPLATES:
        yield from ((path.name, command) for command in commands_in(path.read_text()))
    for name, command in verbs(cli, "fuseray"):
        helps = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
        yield from ((f"{name} --help", printed) for text in helps for printed in QUOTED.findall(text or ""))


def verbs(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        assert command is not None
        yield f"{name} {verb}", command
        if isinstance(command, click.Group):
            yield from verbs(command, f"{name} {verb}")


PRINTED = sorted(set(everything_printed()))


def test_the_commands_of_messages_are_found() -> None:
    found = {command for _, command in PRINTED}
    assert {"fuseray sync VALUE --endpoint VALUE", "fuseray up VALUE", "fuseray jobs --cluster FILE"} <= found
    assert len(found) > 30


@pytest.mark.parametrize(("place", "command"), PRINTED, ids=lambda part: part)
def test_it_works_when_it_is_typed(place: str, command: str) -> None:
    assert "\0" not in command, "values go into a command by orchestrator.config.commands, which quotes them"
    assert problem(command.replace("[KEY.PATH=VALUE]...", "KEY=VALUE")) == ""


def test_the_check_itself_refuses_what_click_refuses() -> None:
    wrong = ["fuseray trian x", "fuseray train", "fuseray up a b", "fuseray sync x --step 3", "mlflow ui --no-such x"]
    assert all(problem(command) for command in wrong)
    right = ["fuseray sweep --resume x", "fuseray sweep x a=1", "fuseray sweep status x", "mlflow db upgrade x"]
    assert [problem(command) for command in right] == [""] * len(right)


def test_values_are_quoted() -> None:
    assert command_line("sync", "/my runs/a", endpoint=None, again=False) == "fuseray sync '/my runs/a'"
    assert command_line("logs", "mine-1", "-f") == "fuseray logs mine-1 -f"
    assert resume_command("/runs/it's") == """fuseray train '/runs/it'"'"'s/recipe.yaml' --resume '/runs/it'"'"'s'"""
    assert resume_command("s3://b/runs/a", "budget.usd=3") == "fuseray train RECIPE --resume s3://b/runs/a budget.usd=3"
    assert train_command("s3://b/sweep/best.yaml") == "fuseray train best.yaml"
    assert train_command("/sweeps/mine/best.yaml") == "fuseray train /sweeps/mine/best.yaml"
    assert mlflow_command("http://mlflow:5000") == "http://mlflow:5000"
    assert mlflow_command("sqlite:///my runs/a.db") == "mlflow ui --backend-store-uri 'sqlite:///my runs/a.db'"
    for command in (
        resume_command("s3://b/a", "budget.usd=3"),
        mlflow_command("a.db"),
        download_command("models:/a/1"),
    ):
        assert problem(command) == ""
