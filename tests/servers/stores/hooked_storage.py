"""Storage that is not a local path, where a test decides what happens at every write, read and deletion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow import fs

from orchestrator.storage.location import Location

Hook = Callable[[str], None]
"""Called with the path before something is done to it; may raise, or wait."""


class HookedStorage(fs.FileSystemHandler):
    """A folder as an object store would be: files need no folders, and a file is there once it is complete."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._inner = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
        self.on_write: Hook = lambda path: None
        self.on_read: Hook = lambda path: None
        self.on_delete: Hook = lambda path: None

    def location(self, path: str) -> Location:
        """Return a place in it."""
        return Location(fs.PyFileSystem(self), path, f"hooked://{path}")

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self.on_write(path)
        self._inner.create_dir(path.rpartition("/")[0], recursive=True)
        return self._inner.open_output_stream(path)

    def open_input_file(self, path: str) -> Any:
        self.on_read(path)
        return self._inner.open_input_file(path)

    def open_input_stream(self, path: str) -> Any:
        self.on_read(path)
        return self._inner.open_input_stream(path)

    def get_file_info(self, paths: list[str]) -> Any:
        for path in paths:
            self.on_read(path)
        return self._inner.get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        self.on_read(selector.base_dir)
        return self._inner.get_file_info(selector)

    def delete_file(self, path: str) -> None:
        self.on_delete(path)
        self._inner.delete_file(path)

    def delete_dir(self, path: str) -> None:
        self.on_delete(path)
        self._inner.delete_dir(path)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._inner.create_dir(path, recursive=recursive)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        raise NotImplementedError

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def move(self, src: str, dest: str) -> None:
        raise NotImplementedError

    def copy_file(self, src: str, dest: str) -> None:
        raise NotImplementedError

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError

    def get_type_name(self) -> str:
        return "hooked"

    def normalize_path(self, path: str) -> str:
        return path

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)
