"""Orders go down, news come up, and the clock of the last step runs; the channel without its actor."""

from orchestrator.train.control_channel import Channel, StepRecord, WorkerCommand
from orchestrator.train.recovery.diagnosis import Diagnosis, FailureKind, RetryBudget
from orchestrator.train.recovery.policy import AttemptFailure, AttemptStart

DONE = {"forward_backward": 1.0}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_an_order_to_leave_ends_with_the_attempt_and_one_to_stop_does_not() -> None:
    channel = Channel()
    channel.workers_started(["a", "b"])
    assert channel.begin(0, 2) == 1
    assert channel.publish(StepRecord(0, seconds=DONE)) is WorkerCommand.CONTINUE
    channel.request(WorkerCommand.SAVE_AND_EXIT)
    assert channel.publish(StepRecord(1, seconds=DONE)) is WorkerCommand.SAVE_AND_EXIT
    channel.report_drained()
    assert channel.are_drained()
    channel.workers_started(["a", "b"])
    assert channel.begin(2, 2) == 2
    assert not channel.are_drained()
    assert channel.publish(StepRecord(2, seconds=DONE)) is WorkerCommand.CONTINUE
    channel.request(WorkerCommand.STOP)
    channel.request(WorkerCommand.SAVE_AND_EXIT)
    assert channel.publish(StepRecord(3, seconds=DONE)) is WorkerCommand.STOP
    channel.workers_started(["a"])
    channel.begin(4, 1)
    assert channel.publish(StepRecord(4, seconds=DONE)) is WorkerCommand.STOP


def test_an_order_to_leave_waits_for_workers_that_have_not_begun() -> None:
    channel = Channel()
    channel.workers_started(["a"])
    channel.request(WorkerCommand.SAVE_AND_EXIT)
    channel.begin(0, 1)
    assert channel.publish(StepRecord(0, seconds=DONE)) is WorkerCommand.SAVE_AND_EXIT


def test_what_several_workers_of_an_attempt_say_alike_is_told_once() -> None:
    channel = Channel()
    channel.workers_started(["a", "b"])
    for text in ("it is damaged", "it is damaged", "another is damaged"):
        channel.log(text)
    assert channel.take_messages() == ["it is damaged", "another is damaged"]
    channel.log("it is damaged")
    assert channel.take_messages() == []
    channel.workers_started(["a"])
    channel.log("it is damaged")
    assert channel.take_messages() == ["it is damaged"]


def test_only_steps_and_starts_count_as_life() -> None:
    clock = Clock()
    channel = Channel(clock)
    clock.now_s = 160.0
    assert channel.stalled_s() == 60.0
    channel.workers_started(["n"])
    assert (channel.stalled_s(), channel.next_step()) == (0.0, None)
    channel.begin(5, 2)
    clock.now_s = 170.0
    channel.publish(StepRecord(5))  # another worker's skipped samples
    assert (channel.stalled_s(), channel.next_step()) == (10.0, 5)
    channel.publish(StepRecord(5, seconds=DONE))
    assert (channel.stalled_s(), channel.next_step()) == (0.0, 6)


def test_news_come_in_order_and_once() -> None:
    channel, fault = Channel(), AttemptFailure(Diagnosis(FailureKind.HUNG, RetryBudget.MACHINE_FAULTS, "quiet"), 1)
    channel.begin(0, 2)
    channel.publish(StepRecord(0, seconds=DONE))
    channel.attempt_failed(fault)
    channel.report_no_room()
    channel.report_no_room()
    first, second, third, fourth = channel.take_messages()
    assert (first, second, third) == (AttemptStart(1, 0, 2), StepRecord(0, seconds=DONE), fault)
    assert isinstance(fourth, str)
    assert channel.take_messages() == []
    channel.workers_started(["n"])
    channel.report_no_room()
    assert len(channel.take_messages()) == 1
