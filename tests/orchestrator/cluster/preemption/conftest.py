from __future__ import annotations

from collections.abc import Iterator

import pytest
from metadata_server import Metadata, metadata_server


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with metadata_server() as served:
        yield served
