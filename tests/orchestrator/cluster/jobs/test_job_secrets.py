"""Secrets are kept out of what the job server shows."""

from __future__ import annotations

import pytest

from orchestrator.cluster.jobs.portability import check_for_secrets, holds_secret, is_secret_name
from orchestrator.config.errors import ConfigError


@pytest.mark.parametrize(
    "name",
    [
        *("token", "hub.token", "hub.api_token", "hub.apiKey", "db.password", "aws.secret_access_key", "x.access-key"),
        *("X-Amz-Signature", "X-Amz-Credential", "sig", "hf_token", "service.private_key"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["text.max_tokens", "text.tokenizer", "text.mask_token", "model.key_width", "seed", "design.signal", "author"],
)
def test_names_that_only_sound_like_it(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    ["https://me:hunter2@host/x", "s3://k:s@b/x", "https://h/x?sig=abc", "https://h/x?a=1&X-Amz-Signature=f00"],
)
def test_addresses_with_secrets(text: str) -> None:
    assert holds_secret(text)


@pytest.mark.parametrize("text", ["s3://bucket/a:b@c", "https://me@host/x", "https://h/x?page=2", "plain", "http://["])
def test_addresses_without(text: str) -> None:
    assert not holds_secret(text)


def test_refusals_name_the_key_and_never_the_secret() -> None:
    with pytest.raises(ConfigError, match=r"override hub\.token: by its name") as caught:
        check_for_secrets(["seed=3", "hub.token=hunter2"], {})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.mix\.1\.uri: holds a password") as caught:
        check_for_secrets([], {"data": {"mix": [{"uri": "s3://b"}, {"uri": "https://me:hunter2@host"}]}})
    assert "hunter2" not in str(caught.value)
