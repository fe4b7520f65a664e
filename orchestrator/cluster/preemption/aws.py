"""Spot interruptions of AWS EC2, from its instance metadata service (IMDSv2).

`spot/instance-action` answers 404 until the instance is marked, then with {"action": ..., "time": ...}: two minutes
ahead, save for hibernation, which begins at once. `events/recommendations/rebalance` may answer earlier.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime

from orchestrator.cluster.preemption.metadata import Answer, ask
from orchestrator.cluster.preemption.notice import Notice, SourceError, epoch_ms, one_line

AWS_URL = "http://169.254.169.254"
TOKEN = "/latest/api/token"  # noqa: S105
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
TOKEN_TTL_S = 21_600
TOKEN_RENEWED_S = 0.9 * TOKEN_TTL_S
TOKEN_FIX = {
    403: "Switch the metadata service on: aws ec2 modify-instance-metadata-options --http-endpoint enabled.",
}
HOP_FIX = (
    "In a container its answers need one hop more: "
    "aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2."
)


class AwsNotices:
    """Asks EC2's metadata service with a session token, which is kept and renewed.

    Args:
        url: where the service is.
        early: also take a rebalance recommendation, which has no deadline, for a notice.
        clock: seconds that only grow, for the age of the token.
    """

    name = "aws"
    interval_s = 5.0

    def __init__(self, url: str = AWS_URL, early: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._early = early
        self._clock = clock
        self._token: str | None = None
        self._token_since_s = 0.0

    def poll(self) -> Notice | None:
        """Return the interruption that is announced, None while there is none."""
        if (action := self._get(ACTION)) is not None:
            return _interruption(action)
        if self._early and self._get(REBALANCE) is not None:
            return Notice("EC2 recommends to leave this instance", None, self.name)
        return None

    def reachable(self) -> bool:
        """Return whether the service is there and gives out tokens."""
        try:
            return bool(self._fresh_token())
        except SourceError:
            return False

    def _get(self, path: str) -> Answer | None:
        """Return the answer for a path, None when there is nothing at it."""
        answer = self._with_token(path, self._usable_token() or self._fresh_token())
        if answer.status == 401:
            answer = self._with_token(path, self._fresh_token())
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise SourceError(f"{self._url}{path}: status {answer.status}.")
        return answer

    def _with_token(self, path: str, token: str) -> Answer:
        return ask("GET", self._url + path, {"X-aws-ec2-metadata-token": token})

    def _usable_token(self) -> str | None:
        return self._token if self._clock() - self._token_since_s < TOKEN_RENEWED_S else None

    def _fresh_token(self) -> str:
        since_s = self._clock()
        try:
            answer = ask("PUT", self._url + TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)})
        except SourceError as error:
            raise SourceError(f"{error} {HOP_FIX}") from None
        if answer.status != 200 or not answer.body:
            fix = TOKEN_FIX.get(answer.status, "This is not EC2's metadata service.")
            raise SourceError(f"{self._url}{TOKEN}: status {answer.status} instead of a token. {fix}")
        self._token, self._token_since_s = answer.text(), since_s
        return self._token


def _interruption(answer: Answer) -> Notice:
    try:
        found = json.loads(answer.body)
        action = found["action"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SourceError(f"EC2's {ACTION} says something other than an action and a time.") from None
    return Notice(f"spot instance, action {one_line(str(action))}", _time_ms(found.get("time")), AwsNotices.name)


def _time_ms(text: object) -> int | None:
    """Return EC2's time; an interruption whose time cannot be read is one all the same."""
    try:
        return epoch_ms(datetime.fromisoformat(str(text)))
    except ValueError:
        return None
