"""Which source of notices a word such as `auto`, `aws`, `gcp` or `file:/run/preempted` means."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from orchestrator.cluster.patience import within
from orchestrator.cluster.preemption.aws import AWS_URL, AwsNotices
from orchestrator.cluster.preemption.gcp import GCP_URL, GcpNotices
from orchestrator.cluster.preemption.marker import FileNotices
from orchestrator.cluster.preemption.notice import NoticeSource
from orchestrator.config.errors import FuserayError, SpecError

FILE = "file:"
PROBE_S = 5.0


class NoSourceError(FuserayError):
    """Nothing on this machine announces preemptions."""


def check_source(word: str) -> None:
    """Refuse a word that names no source, without asking anybody.

    Raises:
        SpecError: it names none.
    """
    if word.startswith(FILE):
        if not Path(word.removeprefix(FILE)).is_absolute():
            raise SpecError(f"source {word!r}: give the file's whole path, as in {FILE}/run/preempted.")
    elif word not in ("auto", "aws", "gcp"):
        raise SpecError(f"source {word!r} is unknown; choose auto, aws, gcp or {FILE}PATH.")


def open_source(word: str, early: bool = False, aws_url: str = AWS_URL, gcp_url: str = GCP_URL) -> NoticeSource:
    """Return the source that a word names.

    Args:
        word: `auto` asks the metadata services of the clouds once which of them is there.
        early: take recommendations and announcements without a deadline for notices, too.
        aws_url: where EC2's metadata service is.
        gcp_url: where Google's metadata server is.

    Raises:
        SpecError: it names none.
        NoSourceError: `auto`, and this machine is in neither cloud.
    """
    check_source(word)
    if word.startswith(FILE):
        return FileNotices(Path(word.removeprefix(FILE)))
    aws, gcp = AwsNotices(aws_url, early), GcpNotices(gcp_url, early)
    if word == "auto":
        word = choose_cloud(_answers(aws), _answers(gcp))
    return aws if word == "aws" else gcp


def choose_cloud(aws: bool, gcp: bool) -> Literal["aws", "gcp"]:
    """Decide which cloud this machine is in.

    Args:
        aws: whether EC2's metadata service answered.
        gcp: whether Google's metadata server answered.

    Raises:
        NoSourceError: neither or both.
    """
    if aws and gcp:
        raise NoSourceError("the metadata services of AWS and GCP both answer; name the right one with --source.")
    if not aws and not gcp:
        raise NoSourceError(
            "neither AWS's nor GCP's metadata service answers here, so nothing announces preemptions; name a file with "
            f"{FILE}PATH, and in a container on EC2 allow the metadata service a hop limit of 2."
        )
    return "aws" if aws else "gcp"


def _answers(source: AwsNotices | GcpNotices) -> bool:
    """Ask once; looking up a name that does not exist may take longer than any request."""
    try:
        return within(PROBE_S, source.reachable)
    except TimeoutError:
        return False
