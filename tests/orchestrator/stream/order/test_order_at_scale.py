"""A billion samples in a million shards: any position is found at once and in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import seek_at_scale


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_seeking_takes_less_than_a_second_and_200_megabytes() -> None:
    script = Path(seek_at_scale.__file__)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert max(result["seconds"]) < 1
    assert result["peak_bytes"] < 200e6
    assert all(32 < shards <= 64 for shards in result["shards"])
