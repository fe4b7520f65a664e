"""Which failures pass by themselves, and how long the pauses are."""

import pytest
import requests
import sqlalchemy.exc
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError, EndpointConnectionError
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos import databricks_pb2 as codes

from orchestrator.track.mlflow_errors import is_rejection
from orchestrator.track.outbox import MAX_DELAY_S, retry_delay_s


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def s3_error(status: int) -> S3UploadFailedError:
    error = S3UploadFailedError("Failed to upload")
    error.__context__ = ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")
    return error


def test_pauses_grow_up_to_a_bound() -> None:
    pauses = [retry_delay_s(ConnectionError(), attempt) for attempt in (1, 2, 3, 5, 9, 10_000)]
    assert pauses == [0.5, 1, 2, 8, MAX_DELAY_S, MAX_DELAY_S]


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("bad name", error_code=codes.INVALID_PARAMETER_VALUE),
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}),
        MlflowException("API request to endpoint x failed with error code 413 != 200"),
        http_error(404),
        s3_error(404),
        ModuleNotFoundError("psycopg"),
        sqlalchemy.exc.ArgumentError("no URL"),
    ],
)
def test_what_is_wrong_in_itself_is_left_out(error: Exception) -> None:
    assert is_rejection(error)
    assert retry_delay_s(error, 1) is None


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("API request failed with exception refused"),
        MlflowException("locked", error_code=codes.TEMPORARILY_UNAVAILABLE),
        RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}),
        RestException({"error_code": "PERMISSION_DENIED", "message": "a token ran out"}),
        MlflowException("API request to endpoint x failed with error code 502 != 200"),
        http_error(503),
        http_error(429),
        s3_error(500),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        ConnectionResetError(),
        sqlalchemy.exc.OperationalError("SELECT", {}, Exception("server closed the connection")),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    assert not is_rejection(error)
