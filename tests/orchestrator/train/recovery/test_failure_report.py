"""What a failed run leaves behind: a message, a file and a tag, for every kind of failure."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.recipe import Recipe
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder, json_bytes
from orchestrator.stream.state import BatchKeys
from orchestrator.train.recovery.diagnosis import Diagnosis, FailureKind, RetryBudget
from orchestrator.train.recovery.failure_report import (
    ADVICE,
    MAX_TAG_CHARS,
    FailureReport,
    headline,
    message,
    record,
    tag,
)
from orchestrator.train.recovery.policy import GiveUp

LOST = Diagnosis(FailureKind.WORKER_LOST, RetryBudget.MACHINE_FAULTS, "ActorDiedError: it is gone", (1,), ("node-7",))
FAILURE = FailureReport(
    diagnosis=LOST,
    run="s3://bucket/runs/mine",
    log="/runs/mine/logs",
    step=120,
    micro_batches=(BatchKeys(240, 8, ("a", "b", "c")), BatchKeys(241, 2, ("d", "e"))),
    given_up=GiveUp(4, "recovery.machine_faults", 3),
    checkpoint="s3://bucket/runs/mine/checkpoints/step-00000100",
    time="2026-01-01T00:00:00+00:00",
)
RECIPE_KEY = re.compile(r"\b(stream|scale|batch|optimizer|schedule|storage|tracking)\.(\w+)")


def test_one_message_says_it_all() -> None:
    assert message(FAILURE) == (
        "The run failed at step 120 on worker 1 (node-7): A process of the run ended without an error of its own.\n"
        "  error    ActorDiedError: it is gone\n"
        "  fix      dmesg on its machine says whether the kernel ended it for want of memory, and the log what it did "
        "last.\n"
        "  samples  micro-batch 240: a, b, c and 5 more; micro-batch 241: d, e\n"
        "           all of them: fuseray trace s3://bucket/runs/mine --step 120\n"
        "  tries    4; recovery.machine_faults (3) is used up\n"
        "  saved    s3://bucket/runs/mine/checkpoints/step-00000100\n"
        "  next     fuseray train RECIPE --resume s3://bucket/runs/mine\n"
        "  log      /runs/mine/logs"
    )


def test_what_is_not_known_is_left_out() -> None:
    unknown = Diagnosis(FailureKind.UNKNOWN, RetryBudget.NONE, "KeyError: 'odd'")
    assert message(FailureReport(unknown, run="", log="ray.log")) == (
        "The run failed: The cause is unknown.\n"
        "  error    KeyError: 'odd'\n"
        "  fix      The log has the traceback.\n"
        "  tries    1; another one would fail in the same way\n"
        "  log      ray.log"
    )


def test_errors_of_several_lines_stay_together() -> None:
    told = message(replace(FAILURE, diagnosis=replace(LOST, error="first fault\nsecond fault")))
    assert "  error    first fault\n           second fault\n  fix" in told


@pytest.mark.parametrize(
    ("ranks", "hosts", "step", "place"),
    [
        ((), (), None, ""),
        ((), ("a", "b"), None, " on a and b"),
        ((0, 2, 3), (), None, " on workers 0, 2 and 3"),
        (tuple(range(9)), ("a",), 7, " at step 7 on workers 0, 1, 2, 3 and 5 more (a)"),
    ],
)
def test_the_place_is_told_as_far_as_known(
    ranks: tuple[int, ...], hosts: tuple[str, ...], step: int | None, place: str
) -> None:
    failure = replace(FAILURE, diagnosis=replace(LOST, ranks=ranks, hosts=hosts), step=step)
    assert headline(failure).startswith(f"The run failed{place}: A process")


def test_many_micro_batches_are_counted() -> None:
    batches = tuple(BatchKeys(number, 1, (f"k{number}",)) for number in range(64))
    told = message(replace(FAILURE, micro_batches=batches))
    assert "micro-batch 3: k3; and 60 more micro-batches" in told
    assert "k4" not in told


@pytest.mark.parametrize(
    ("tries", "budget", "line"),
    [
        (GiveUp(1), RetryBudget.MACHINE_FAULTS, None),
        (GiveUp(3), RetryBudget.MACHINE_FAULTS, "  tries    3\n"),
        (GiveUp(2), RetryBudget.NONE, "  tries    2; another one would fail in the same way\n"),
        (GiveUp(1, "recovery.x", 0), RetryBudget.PREEMPTIONS, "  tries    1; recovery.x (0) is used up\n"),
    ],
)
def test_tries_and_their_budget(tries: GiveUp, budget: RetryBudget, line: str | None) -> None:
    told = message(replace(FAILURE, given_up=tries, diagnosis=replace(LOST, budget=budget)))
    assert (line or "") in told
    assert ("  tries" in told) is (line is not None)


def test_without_a_checkpoint_it_says_so() -> None:
    told = message(replace(FAILURE, checkpoint=""))
    assert "  saved    no whole checkpoint yet; the run starts again from its first step\n" in told


def test_it_is_kept_in_the_run_folder(tmp_path: Path) -> None:
    run = RunFolder(locate(str(tmp_path)))
    run.post_mortem.write(json_bytes(record(FAILURE)))
    kept = json.loads((tmp_path / "post-mortem.json").read_text())
    assert kept == record(FAILURE)
    assert (kept["kind"], kept["retryable"], kept["workers"], kept["step"]) == ("worker lost", True, [1], 120)
    assert kept["micro_batches"][0] == {"number": 240, "samples": 8, "first_keys": ["a", "b", "c"]}
    assert kept["tries"] == {"attempts": 4, "budget": "recovery.machine_faults", "allowed": 3}
    assert kept["next"] == "fuseray train RECIPE --resume s3://bucket/runs/mine"


def test_the_tag_is_one_short_line() -> None:
    assert tag(FAILURE) == "worker lost at step 120 on worker 1 (node-7): ActorDiedError: it is gone"
    long = tag(replace(FAILURE, diagnosis=replace(LOST, error=f"{'x' * 999}\nmore")))
    assert len(long) == MAX_TAG_CHARS
    assert "\n" not in long


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_has_a_cause_and_a_fix_that_names_keys_that_exist(kind: FailureKind) -> None:
    advice = ADVICE[kind]
    for sentence in (advice.cause, advice.fix):
        assert sentence[-1] == "."
        assert "\n" not in sentence
    for section, key in RECIPE_KEY.findall(advice.fix):
        assert key in Recipe.model_fields[section].annotation.model_fields, f"{section}.{key}"


def test_its_commands_name_the_folder_and_the_server() -> None:
    here = replace(FAILURE, run="/my runs/mine", endpoint=None)
    assert here.next_command == "fuseray train '/my runs/mine/recipe.yaml' --resume '/my runs/mine'"
    assert here.trace_command == "fuseray trace '/my runs/mine' --step 120"
    there = replace(FAILURE, endpoint="http://store:9000")
    assert there.trace_command == "fuseray trace s3://bucket/runs/mine --step 120 --endpoint http://store:9000"
