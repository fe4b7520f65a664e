"""`fuseray shards index --ray` starts a Ray of its own."""

import os
import subprocess
import sys
from pathlib import Path

from shards import write_shards


def test_index_in_a_local_ray(tmp_path: Path) -> None:
    folder = write_shards(str(tmp_path), 30, per_shard=10)
    command = [sys.executable, "-m", "orchestrator.cli", "shards", "index", folder, "--ray", "local", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "30 samples in 3 shards" in done.stdout
