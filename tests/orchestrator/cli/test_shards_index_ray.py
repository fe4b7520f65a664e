"""`fuseray shards index --ray` starts a Ray of its own."""

from pathlib import Path

from preloaded import fuseray
from shards import write_shards


def test_index_in_a_local_ray(tmp_path: Path) -> None:
    folder = write_shards(str(tmp_path), 30, per_shard=10)
    done = fuseray("shards", "index", folder, "--ray", "local", "--workers", "2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 samples in 3 shards" in done.stdout
