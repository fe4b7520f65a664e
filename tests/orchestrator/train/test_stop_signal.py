"""The first signal asks, the second one acts. Real signals to this very process."""

import os
import signal
import threading

import pytest

from orchestrator.train.driver import stop_on_signal


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_a_first_interrupt_asks_and_a_second_one_interrupts() -> None:
    before, asked = signal.getsignal(signal.SIGINT), threading.Event()
    with stop_on_signal(signal.SIGINT, asked):
        assert not asked.is_set()
        send(signal.SIGINT)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_termination_goes_to_the_handler_that_was_there() -> None:
    got: list[int] = []
    outer = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        asked = threading.Event()
        with stop_on_signal(signal.SIGTERM, asked):
            send(signal.SIGTERM)
            assert asked.is_set()
            assert got == []
            send(signal.SIGTERM)
            assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, outer)
