"""The outbox alone: order, pauses, what the user is told, and when waiting ends."""

import threading
from dataclasses import dataclass, field

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from tracking import Pauses

from orchestrator.track.outbox import MAX_DELAY_S, Outbox, RejectedKeys, send_batch_or_split

REFUSED = MlflowException("not like this", error_code=INVALID_PARAMETER_VALUE)


@dataclass(eq=False)
class Letter:
    """Arrives in so many parts, after failures."""

    description: str
    arrived: list[str]
    failures: list[Exception] = field(default_factory=list)
    parts: int = 1

    def attempt(self) -> bool:
        if self.failures:
            raise self.failures.pop(0)
        self.parts -= 1
        self.arrived.append(self.description)
        return self.parts == 0


def open_outbox(pauses: Pauses, told: list[str]) -> Outbox:
    return Outbox("MLflow", told.append, linger_s=0.0, pause=pauses, clock=lambda: pauses.now_s)


def test_everything_arrives_in_order_and_failures_are_told_once() -> None:
    arrived: list[str] = []
    told: list[str] = []
    pauses = Pauses()
    outbox = open_outbox(pauses, told)
    outbox.put(Letter("a", arrived))
    outbox.put(Letter("b", arrived, [ConnectionError("gone")] * 9, parts=2))
    outbox.put(Letter("c", arrived))
    assert outbox.wait(1000)
    outbox.stop()
    assert arrived == ["a", "b", "b", "c"]
    assert pauses.taken_s == [0.5, 1, 2, 4, 8, 16, MAX_DELAY_S, MAX_DELAY_S, MAX_DELAY_S]
    assert len(told) == 2
    assert "does not answer (gone)" in told[0]
    assert "is back" in told[1]


def test_a_single_failure_is_not_worth_a_message() -> None:
    told: list[str] = []
    outbox = open_outbox(Pauses(), told)
    outbox.put(Letter("a", [], [ConnectionError()]))
    assert outbox.wait(10)
    assert told == []


def test_what_is_refused_holds_nothing_up() -> None:
    arrived: list[str] = []
    told: list[str] = []
    outbox = open_outbox(Pauses(), told)
    outbox.put(Letter("the bad", arrived, [REFUSED]))
    outbox.put(Letter("the good", arrived))
    assert outbox.wait(10)
    assert arrived == ["the good"]
    assert told == ["MLflow does not get the bad: not like this"]


def test_waiting_ends_when_failures_last_too_long() -> None:
    pauses = Pauses()
    outbox = open_outbox(pauses, [])

    class Undeliverable(Letter):
        def attempt(self) -> bool:
            raise ConnectionError

    letter = Undeliverable("a", [])
    outbox.put(letter)
    assert not outbox.wait(60)
    outbox.stop()
    assert outbox.unsent() == [letter]
    assert pauses.now_s >= 60


def test_putting_returns_while_an_attempt_hangs() -> None:
    """The attempt ends only when the caller has put everything; a caller that waited would wait for ever."""
    all_put = threading.Event()
    arrived: list[str] = []

    class Hanging(Letter):
        def attempt(self) -> bool:
            assert all_put.wait(60)
            return super().attempt()

    outbox = open_outbox(Pauses(), [])
    for number in range(100):
        outbox.put(Hanging(str(number), arrived))
    all_put.set()
    assert outbox.wait(10)
    assert arrived == [str(number) for number in range(100)]


def test_the_end_of_a_run_cuts_a_pause_short() -> None:
    """With the outbox's own pauses, and an hour of waiting for more."""
    outbox = Outbox("MLflow", lambda _: None, linger_s=3600)
    letter = Letter("a", [], [ConnectionError()])
    outbox.put(letter)
    assert outbox.wait(30)
    outbox.stop()


def test_refused_names_are_told_together_and_sent_no_more() -> None:
    told: list[str] = []
    sent: list[str] = []

    def send(names: list[str]) -> None:
        if bad := {"x", "y"} & set(names):
            raise MlflowException(f"{len(bad) and 'bad'} name", error_code=INVALID_PARAMETER_VALUE)
        sent.extend(names)

    rejected = RejectedKeys(told.append)
    send_batch_or_split({name: [name] for name in "axby"}, send, rejected, "metrics")
    assert sent == ["a", "b"]
    assert told == ["MLflow refuses the metrics 'x', 'y', which are left out: bad name"]
    assert rejected.skip("metrics", "x", 5)
    assert not rejected.skip("metrics", "a", 5)
    assert not rejected.skip("tags", "x", 5)
    assert rejected.count == 7


def test_a_server_that_goes_away_in_the_middle_is_not_a_refusal() -> None:
    def send(names: list[str]) -> None:
        raise REFUSED if len(names) > 1 else ConnectionError

    with pytest.raises(ConnectionError):
        send_batch_or_split({name: [name] for name in "ab"}, send, RejectedKeys(print), "metrics")
