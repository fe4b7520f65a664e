"""New databases for MLflow as copies of one, because MLflow works for seconds on every database that it makes."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import mkdtemp


def new_database(file: Path) -> str:
    """Put a database without runs into a file that does not exist yet; return its URI."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with closing(sqlite3.connect(_first())) as source, closing(sqlite3.connect(file)) as target:
            source.backup(target)
    return f"sqlite:///{file}"


@cache
def _first() -> Path:
    """Have MLflow make a database, which is kept as long as this process runs."""
    from mlflow.tracking import MlflowClient

    folder = Path(mkdtemp(prefix="mlflow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"
