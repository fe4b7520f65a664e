"""A text means the same in a file and on the command line, or is refused there with what to write instead."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.models import import_command
from orchestrator.cli.train import resume_overrides
from orchestrator.cluster.files.read import read_cluster
from orchestrator.config.document import Document
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_recipe
from orchestrator.config.prices import read_prices
from orchestrator.config.search_space import Choice, parse_parameter
from orchestrator.config.sweep import load_sweep
from orchestrator.config.yaml_text import to_yaml

TEXTS = {
    "2026-11-30": "2026-11-30",
    "2026-11-30T10:00:00Z": "2026-11-30T10:00:00Z",
    "2026-13-45": "2026-13-45",
    "12:30": "12:30",
    "=": "=",
    "no": "no",
    "--- x": "--- x",
    "!!str 5": "5",
    "cost $5": "cost $5",
    "": None,
    "# all": None,
    "clip # 2": "clip",
    "1e-4": 1e-4,
    "[a, 2026-01-02]": ["a", "2026-01-02"],
    "{train: x}": {"train": "x"},
}
REFUSED = [
    *("[PROD] clip", "@team", "my: run: x", "[x", "{a: 1", "`x", "%x", "*x", "'x", '"x', "a\tb", "\x07", "a: b"),
    *("!env X", "!env {a: b}", "[1, !env X]", "!!binary aGk=", "!!set {x, y}", "!!int x", "!!timestamp 2026-11-30"),
    *("0x_", "-_", "&x [*x]", "&x {<<: *x}", "{a: 1, a: 2}", "x\nother: 1", "1\n---\nb: 2"),
]
VARIABLES = ["${SCRATCH}/runs", "$SCRATCH", "$HOME/runs", "s3://$BUCKET/runs", "[x, '${A}']", "{a: '${A}'}"]


def in_file(text: str) -> Any:
    document = Document.parse(f"key: {text}\n", "mine.yaml")
    document.refuse_variables()
    return document.to_dict()["key"]


def on_command_line(text: str) -> Any:
    document = Document.parse("{}", "mine.yaml")
    document.override(f"section.key={text}")
    return document.to_dict()["section"]["key"]


@pytest.mark.parametrize(("text", "value"), TEXTS.items())
def test_a_value_is_the_same_in_a_file_and_on_the_command_line(text: str, value: Any) -> None:
    assert in_file(text) == on_command_line(text) == value


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_value_is_refused_with_the_way_to_write_it_as_text(text: str) -> None:
    if "\n" not in text:
        with pytest.raises(ConfigError, match=r"^mine\.yaml"):
            in_file(text)
    with pytest.raises(ConfigError, match="As a text it is written") as caught:
        on_command_line(text)
    (typed,) = shlex.split(str(caught.value).rpartition("it is written ")[2])
    assert on_command_line(typed.removeprefix("section.key=")) == text


@pytest.mark.parametrize("text", VARIABLES)
def test_environment_variables_are_not_taken_literally(text: str) -> None:
    for read, place in ((in_file, r"mine\.yaml:1: key"), (on_command_line, r"override .*section\.key")):
        with pytest.raises(
            ConfigError, match=place + r".* would be taken literally.* let the shell put it in: .*=\"\$"
        ):
            read(text)


def test_a_tag_is_refused_where_it_stands() -> None:
    with pytest.raises(ConfigError, match=r"^mine\.yaml:3: data\.train: the tag !env is not known .*data\.train=\"\$"):
        Document.parse("workload: albef\ndata:\n  train: !env DATA\n", "mine.yaml")


def test_written_yaml_is_read_as_the_same_values() -> None:
    texts = [*TEXTS, *REFUSED, *VARIABLES, " x ", "null", "0o17", "1_000", ".inf", "~", "é", "x\ny", "<<"]
    values = {"texts": [text for text in texts if text != "\x07"], "numbers": [1e-05, 10**20, 0.1, True, None]}
    assert Document.parse(to_yaml(values), "written").to_dict() == values


def test_a_run_to_resume_is_named_by_its_text() -> None:
    document = Document.parse("{}", "mine.yaml")
    for assignment in resume_overrides("/data/[old]: runs/2026-11-30"):
        document.override(assignment)
    assert document.to_dict() == {"name": "2026-11-30", "storage": {"uri": "/data/[old]: runs"}}


def test_values_of_a_search_space_are_read_alike() -> None:
    assert parse_parameter("name", "choice(2026-11-30, b)").domain == Choice(("2026-11-30", "b"))


def test_every_file_and_every_verb_with_overrides_refuses_them(tmp_path: Path) -> None:
    recipe, sweep, prices = (tmp_path / f"{name}.yaml" for name in ("recipe", "sweep", "prices"))
    recipe.write_text("workload: albef\ndata: {train: '${SCRATCH}/x'}\n")
    sweep.write_text("recipe: recipe.yaml\noverrides:\n  storage.uri: ${SCRATCH}/x\n")
    prices.write_text("accelerators: {X: !env Y}\n")
    for read, file in ((load_recipe, recipe), (load_sweep, sweep), (read_prices, prices)):
        with pytest.raises(ConfigError, match=re.escape(f"{file}:")):
            read(file)
    result = CliRunner().invoke(import_command, ["albef", "x.pth", "out", "model.preset=[x"])
    assert isinstance(result.exception, ConfigError)


def test_a_cluster_file_takes_variables_where_shells_read_them_alone(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "clusters" / "onprem.yaml").read_text()
    file = tmp_path / "lab.yaml"
    file.write_text(re.sub(r"(?m)^(\s+head_ip:).*$", r"\1 ${HEAD}", text))
    with pytest.raises(ConfigError, match=r"lab\.yaml:\d+: provider\.head_ip: \$\{HEAD\} would be taken literally"):
        read_cluster(file)
    file.write_text(text.replace("setup_commands:\n", "setup_commands:\n  - echo ${HOME}\n", 1))
    read_cluster(file)
