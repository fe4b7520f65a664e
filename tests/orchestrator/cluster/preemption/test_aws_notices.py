"""EC2's spot interruptions, asked of a server that checks tokens as the real one does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from metadata_server import Metadata

from orchestrator.cluster.preemption.cloud import ACTION, REBALANCE, TOKEN_RENEWED_S, AwsNotices
from orchestrator.cluster.preemption.notices import Notice, SourceError

TERMINATE = '{"action": "terminate", "time": "2027-01-31T12:00:05Z"}'
AT_MS = int(datetime(2027, 1, 31, 12, 0, 5, tzinfo=UTC).timestamp() * 1000)


class Seconds:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_is_announced(metadata: Metadata) -> None:
    assert AwsNotices(metadata.url).poll() is None
    assert metadata.asked == [("PUT", "/latest/api/token"), ("GET", ACTION)]


def test_an_interruption_is_a_notice_with_its_time(metadata: Metadata) -> None:
    metadata.items[ACTION] = (200, TERMINATE)
    source = AwsNotices(metadata.url)
    notice = source.poll()
    assert notice == Notice("spot instance, action terminate", AT_MS, "aws")
    assert source.poll() == notice


@pytest.mark.parametrize("time", ["", ', "time": "soon"', ', "time": 5', ', "time": null'])
def test_an_interruption_without_a_usable_time_is_one_all_the_same(metadata: Metadata, time: str) -> None:
    metadata.items[ACTION] = (200, f'{{"action": "hibernate"{time}}}')
    assert AwsNotices(metadata.url).poll() == Notice("spot instance, action hibernate", None, "aws")


def test_a_token_is_used_again_and_renewed_before_it_ends(metadata: Metadata) -> None:
    clock = Seconds()
    source = AwsNotices(metadata.url, clock=clock)
    for _ in range(3):
        source.poll()
    assert metadata.count("PUT") == 1
    clock.now_s += TOKEN_RENEWED_S - 1
    source.poll()
    assert metadata.count("PUT") == 1
    clock.now_s += 1
    source.poll()
    assert metadata.count("PUT") == 2


def test_a_token_that_is_refused_is_replaced_within_the_poll(metadata: Metadata) -> None:
    metadata.items[ACTION] = (200, TERMINATE)
    source = AwsNotices(metadata.url)
    source.poll()
    metadata.tokens.clear()
    assert source.poll() is not None
    assert metadata.count("PUT") == 2


def test_a_service_that_refuses_its_own_tokens_is_not_asked_for_ever(metadata: Metadata) -> None:
    metadata.items[ACTION] = (401, "")
    with pytest.raises(SourceError, match=r"instance-action: status 401\."):
        AwsNotices(metadata.url).poll()
    assert metadata.count("GET") == 2


@pytest.mark.parametrize(("status", "fix"), [(403, "--http-endpoint enabled"), (500, "not EC2's metadata service")])
def test_without_a_token_the_fix_is_named(metadata: Metadata, status: int, fix: str) -> None:
    metadata.token_status = status
    with pytest.raises(SourceError, match=f"status {status} instead of a token.*{fix}"):
        AwsNotices(metadata.url).poll()


def test_a_service_that_comes_back_is_used_again(metadata: Metadata) -> None:
    metadata.token_status = 503
    source = AwsNotices(metadata.url)
    with pytest.raises(SourceError):
        source.poll()
    metadata.token_status = 200
    assert source.poll() is None


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '"terminate"', "5", "{}", '{"time": "2027-01-31T12:00:05Z"}', "[" * 9000]
)
def test_what_is_no_interruption_is_not_taken_for_one(metadata: Metadata, body: str) -> None:
    metadata.items[ACTION] = (200, body)
    with pytest.raises(SourceError, match="something other than an action"):
        AwsNotices(metadata.url).poll()


def test_answers_beyond_all_measure_and_redirects_are_refused(metadata: Metadata) -> None:
    source = AwsNotices(metadata.url)
    metadata.items[ACTION] = (200, "x" * 50_000)
    with pytest.raises(SourceError, match="larger than 16384 bytes"):
        source.poll()
    metadata.items[ACTION] = (302, f"{metadata.url}{REBALANCE}")
    metadata.items[REBALANCE] = (200, TERMINATE)
    with pytest.raises(SourceError, match="status 302"):
        source.poll()
    assert ("GET", REBALANCE) not in metadata.asked


def test_text_from_outside_is_made_one_short_line(metadata: Metadata) -> None:
    metadata.items[ACTION] = (200, '{"action": "a\\u001b[2J\\nb' + "c" * 500 + '"}')
    notice = AwsNotices(metadata.url).poll()
    assert notice is not None
    assert notice.reason.startswith("spot instance, action a[2J bc")
    assert len(notice.reason) < 250


def test_a_rebalance_recommendation_counts_only_when_asked_for(metadata: Metadata) -> None:
    metadata.items[REBALANCE] = (200, '{"noticeTime": "2027-01-31T11:00:00Z"}')
    assert AwsNotices(metadata.url).poll() is None
    early = AwsNotices(metadata.url, early=True)
    assert early.poll() == Notice("EC2 recommends to leave this instance", None, "aws")
    metadata.items[ACTION] = (200, TERMINATE)
    notice = early.poll()
    assert notice is not None
    assert notice.deadline_ms == AT_MS


def test_no_message_holds_a_token(metadata: Metadata) -> None:
    source = AwsNotices(metadata.url)
    metadata.items[ACTION] = (500, "")
    with pytest.raises(SourceError) as caught:
        source.poll()
    (token,) = metadata.tokens
    assert token not in str(caught.value)
