"""Decisions about trying again, without a server."""

import logging

import pytest

from orchestrator.storage.retry import (
    RETRY_LIMITS,
    Cause,
    GiveUp,
    Retry,
    ShortRead,
    StorageError,
    cause_of,
    decide_retry,
    retrying,
)
from workloads.contract import KeyedRandom

DRAW = KeyedRandom(("test",))
HEAD = "When reading information for key 'x' in bucket 'b': AWS Error"
GCS = "google::cloud::Status"

CAUSES = [
    (OSError("AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."), Cause.THROTTLED),
    (OSError("AWS Error SERVICE_UNAVAILABLE during GetObject operation: "), Cause.THROTTLED),
    (OSError(f"{HEAD} UNKNOWN (HTTP status 503) during HeadObject operation: No response body."), Cause.THROTTLED),
    (OSError(f"{HEAD} UNKNOWN (HTTP status 429) during HeadObject operation: No response body."), Cause.THROTTLED),
    (OSError(f"{HEAD} UNKNOWN (HTTP status 500) during HeadObject operation: No response body."), Cause.INTERRUPTED),
    (OSError("AWS Error INTERNAL_FAILURE during GetObject operation: try again"), Cause.INTERRUPTED),
    (OSError(f"{HEAD} NETWORK_CONNECTION during GetObject operation: curlCode: 56, reset"), Cause.INTERRUPTED),
    (OSError(f"{HEAD} NETWORK_CONNECTION during GetObject operation: curlCode: 18, partial"), Cause.INTERRUPTED),
    (OSError(f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 28, timeout"), Cause.TIMED_OUT),
    (OSError(f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 7, refused"), Cause.UNREACHABLE),
    (OSError(f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 6, no such host"), Cause.UNREACHABLE),
    (OSError(f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 60, certificate"), Cause.REFUSED),
    (OSError(f"{HEAD} ACCESS_DENIED during HeadObject operation: No response body."), Cause.DENIED),
    (OSError("AWS Error SIGNATURE_DOES_NOT_MATCH during ListObjectsV2 operation: no"), Cause.DENIED),
    (OSError("AWS Error INVALID_ACCESS_KEY_ID during ListObjectsV2 operation: no"), Cause.DENIED),
    (OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body."), Cause.DENIED),
    (OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: no"), Cause.NO_BUCKET),
    (OSError("AWS Error NO_SUCH_KEY during GetObject operation: no"), Cause.MISSING),
    (OSError(f"{GCS}(UNAVAILABLE: CURL error [7]=Could not connect to server"), Cause.UNREACHABLE),
    (OSError(f"{GCS}(UNAVAILABLE: Could not create a OAuth2 access token: CURL error [6]"), Cause.DENIED),
    (OSError(f"{GCS}(UNAVAILABLE: try again)"), Cause.INTERRUPTED),
    (OSError(f"{GCS}(RESOURCE_EXHAUSTED: slower)"), Cause.THROTTLED),
    (OSError(f"{GCS}(PERMISSION_DENIED: no)"), Cause.DENIED),
    (OSError(f"{GCS}(DEADLINE_EXCEEDED: late)"), Cause.TIMED_OUT),
    (FileNotFoundError(2, "No such file"), Cause.MISSING),
    (PermissionError(13, "Permission denied"), Cause.DENIED),
    (ConnectionResetError(), Cause.INTERRUPTED),
    (TimeoutError(), Cause.TIMED_OUT),
    (ShortRead("3 of 4 bytes came"), Cause.INTERRUPTED),
    (OSError(116, "Stale file handle"), Cause.INTERRUPTED),
    (OSError(28, "No space left on device"), Cause.REFUSED),
    (OSError("something nobody has seen before"), Cause.REFUSED),
]


@pytest.mark.parametrize(("error", "cause"), CAUSES, ids=[str(case[0])[:60] for case in CAUSES])
def test_errors_are_sorted_by_cause(error: Exception, cause: Cause) -> None:
    assert cause_of(error) is cause


@pytest.mark.parametrize(("error", "cause"), CAUSES, ids=[str(case[0])[:60] for case in CAUSES])
def test_what_may_pass_is_tried_again_and_nothing_else(error: Exception, cause: Cause) -> None:
    decision = decide_retry(error, 1, DRAW)
    if cause in RETRY_LIMITS:
        assert isinstance(decision, Retry)
        assert RETRY_LIMITS[cause].initial_wait_s / 2 <= decision.after_s <= RETRY_LIMITS[cause].initial_wait_s
    else:
        assert decision == GiveUp(cause.value)


@pytest.mark.parametrize("cause", RETRY_LIMITS)
def test_patience_has_an_end(cause: Cause) -> None:
    error = next(error for error, its in CAUSES if its is cause)
    last = RETRY_LIMITS[cause].attempts
    decisions = [decide_retry(error, attempt, DRAW) for attempt in range(1, last + 1)]
    waits = [decision.after_s for decision in decisions if isinstance(decision, Retry)]
    assert decisions[-1] == GiveUp(f"tried {last} times")
    assert len(waits) == last - 1
    for attempt, wait_s in enumerate(waits):
        max_wait_s = min(RETRY_LIMITS[cause].max_wait_s, RETRY_LIMITS[cause].initial_wait_s * 2**attempt)
        assert max_wait_s / 2 <= wait_s <= max_wait_s


def test_waits_depend_on_the_key_alone() -> None:
    error = ConnectionResetError()
    assert decide_retry(error, 2, DRAW) == decide_retry(error, 2, KeyedRandom(("test",)))
    assert decide_retry(error, 2, DRAW) != decide_retry(error, 2, KeyedRandom(("another",)))


def failing(errors: list[Exception]) -> str:
    if errors:
        raise errors.pop(0)
    return "done"


def test_an_action_is_repeated_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = [ConnectionResetError(), ShortRead("short"), TimeoutError()]
    waits: list[float] = []
    with caplog.at_level(logging.WARNING):
        assert retrying(lambda: failing(errors), "s3://b/x", "read", waits.append) == "done"
    assert len(waits) == 3
    assert [record.getMessage().partition("; attempt")[0] for record in caplog.records] == [
        "s3://b/x: the store did not answer in time"
    ]


def test_a_final_failure_is_not_repeated() -> None:
    errors: list[Exception] = [PermissionError(13, "Permission denied"), ConnectionResetError()]
    with pytest.raises(StorageError, match="s3://b/x: cannot be read: access was denied"):
        retrying(lambda: failing(errors), "s3://b/x", "read", lambda _: None)
    assert len(errors) == 1


def test_the_number_of_attempts_is_told() -> None:
    errors: list[Exception] = [TimeoutError() for _ in range(9)]
    with pytest.raises(StorageError, match="cannot be read after 4 attempts: the store did not answer in time"):
        retrying(lambda: failing(errors), "s3://b/x", "read", lambda _: None)
    assert len(errors) == 5


def test_errors_that_are_not_the_storages_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        retrying(lambda: failing([ZeroDivisionError()]), "s3://b/x", "read", lambda _: None)
