"""Messages: what to do is in them, secrets are not."""

import pickle
import traceback

import pytest

from orchestrator.storage.retry import StorageError, explanation, retrying, without_secrets

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"  # noqa: S105


@pytest.mark.parametrize(
    "text",
    [
        f"https://h/b/x?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"https://h/b/x?X-Goog-Signature={SECRET}",
        f"https://h/b/x?x-amz-security-token={SECRET}",
        f"https://h/b/x?sv=1&sig={SECRET}",
        f"https://user:{SECRET}@host/x",
        f"https://{SECRET}@host/x",
        f"<AWSAccessKeyId>{SECRET}</AWSAccessKeyId>",
        f"AWS4-HMAC-SHA256 Credential={SECRET}/20250101/us-east-1, SignedHeaders=host, Signature={SECRET}",
        f"Authorization: Bearer {SECRET}",
        "the key AKIAIOSFODNN7EXAMPLE is unknown",
        "token ya29.a0AfH6SMBx-secret_1 is bad",
    ],
)
def test_secrets_are_removed(text: str) -> None:
    shown = without_secrets(text)
    assert "***" in shown
    for secret in (SECRET, "AKIAIOSFODNN7EXAMPLE", "ya29.a0"):
        assert secret not in shown
    assert without_secrets(shown) == shown


def test_the_secrets_of_this_process_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert SECRET not in str(StorageError(f"the server said {SECRET}"))


@pytest.mark.parametrize("text", ["s3://bucket/key=1/part.tar", "/data/signature.txt", "cannot be read: token bucket"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_a_secret_in_an_error_does_not_come_out_with_its_cause() -> None:
    def fail() -> None:
        raise PermissionError(13, f"https://h/x?X-Amz-Signature={SECRET}")

    with pytest.raises(StorageError) as caught:
        retrying(fail, "s3://b/x", "read")
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_storage_errors_travel() -> None:
    error = StorageError("s3://b/x: cannot be read")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


@pytest.mark.parametrize(
    ("error", "uri", "advice"),
    [
        (PermissionError(13, "Permission denied"), "s3://b/x", "AWS_ACCESS_KEY_ID.*~/.aws/credentials.*role.*doctor"),
        (PermissionError(13, "Permission denied"), "gs://b/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        (PermissionError(13, "Permission denied"), "/data/x", "permission"),
        (OSError("AWS Error NO_SUCH_BUCKET during X: y"), "s3://b/x", "the bucket first, or correct the URI"),
        (OSError("AWS Error SLOW_DOWN during X: y"), "s3://b/x", "fewer workers"),
        (OSError("curlCode: 7, Could not connect"), "s3://b/x", "storage.endpoint"),
        (OSError(28, "No space left on device"), "/data/x", "Free some space"),
        (OSError(), "/data/x", "OSError"),
    ],
)
def test_messages_say_what_to_do(error: Exception, uri: str, advice: str) -> None:
    import re

    assert re.search(advice, explanation(error, uri))
