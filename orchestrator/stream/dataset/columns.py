"""The columns of a Parquet shard by role: recognised by name, taken by type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa
from pyarrow import types

from orchestrator.stream.dataset.index import DataSetError
from workloads.contract import IMAGE_ID_NAMES

COLUMN_NAMES = {
    "image": ("image", "jpg", "png", "image_bytes", "jpeg", "webp", "img", "images"),
    "address": ("image_uri", "image_url", "uri", "url"),
    "captions": ("captions", "caption", "text", "txt"),
    "key": ("key", "__key__", "id", "image_id"),
    "fields": ("fields", "json"),
    "image_id": IMAGE_ID_NAMES,
}
"""Recognised column names by role, in order of preference."""

NEEDED = {"images": ("image", "address"), "captions": ("captions",)}
"""What a sample must have, and the roles of the columns that may hold it."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each role in a Parquet shard; an empty name for none.

    Args:
        image: encoded images as bytes, or their addresses as text, or a struct with a field `bytes` or `path`, or a
            list of one of these.
        address: URIs of images, or paths relative to the data set; used where there is no `image`.
        captions: a text or a list of texts.
        key: unique keys; without one, a sample's key is its shard and row.
        fields: further fields, as a struct or as the text of a JSON object.
        image_id: what names the image; a field `image_id` has precedence. Indices of earlier versions have none.
    """

    image: str
    address: str
    captions: str
    key: str
    fields: str
    image_id: str = ""

    @classmethod
    def detect(cls, schema: pa.Schema, requested: Mapping[str, str], shard: str) -> Columns:
        """Return the columns of a shard.

        Args:
            schema: of the shard.
            requested: names that the user gave, by role; the other roles are detected.
            shard: its URI, for messages.

        Raises:
            DataSetError: a column is missing, is there twice, or has a type that cannot hold what it is for.
        """
        absent = [name for name in requested.values() if name not in schema.names]
        if absent:
            raise DataSetError(f"{shard}: has no column {absent[0]!r}; its columns: {', '.join(schema.names)}.")
        columns = {role: requested.get(role) or _detect(role, schema, shard) for role in COLUMN_NAMES}
        for needed, roles in NEEDED.items():
            if not any(columns[role] for role in roles):
                raise DataSetError(f"{shard}: {_why_none(needed, roles, schema)}")
        result = cls(**columns)
        result.check(schema, shard)
        return result

    def check(self, schema: pa.Schema, shard: str) -> None:
        """Check that a shard has the columns, each once and of a type that can hold what it is for.

        Raises:
            DataSetError: it has not.
        """
        for role, name in self._used().items():
            if name not in schema.names:
                raise DataSetError(
                    f"{shard}: lacks the column {name!r} that other shards have; it has {', '.join(schema.names)}."
                )
            _check_once(name, schema, shard)
            column_type = schema.field(name).type
            if not can_hold(role, column_type):
                raise DataSetError(f"{shard}: {_cannot_hold(name, column_type, role)}")

    def as_mapping(self) -> dict[str, str]:
        """Return the columns by role, for the index; without image ids as in indices of earlier versions."""
        return {role: name for role, name in asdict(self).items() if name or role != "image_id"}

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return list(dict.fromkeys(self._used().values()))

    def passed_over(self, schema: pa.Schema) -> list[str]:
        """Return the columns that were not taken, and could have been, for the images or the captions."""
        taken = self._used()
        return [
            name
            for role in ("image", "captions")
            if role in taken
            for name in _candidates(role, schema)
            if name != taken[role]
        ]

    def _used(self) -> dict[str, str]:
        return {role: name for role, name in asdict(self).items() if name and not (role == "address" and self.image)}


def can_hold(role: str, column_type: pa.DataType) -> bool:
    """Return whether a column of a type can have a role."""
    return _HOLDS[role](_plain(column_type))


def _candidates(role: str, schema: pa.Schema) -> list[str]:
    return [
        name for name in COLUMN_NAMES[role] if name in schema.names and can_hold(role, schema.types[_at(name, schema)])
    ]


def _at(name: str, schema: pa.Schema) -> int:
    return int(schema.names.index(name))


def _detect(role: str, schema: pa.Schema, shard: str) -> str:
    candidates = _candidates(role, schema)
    for name in candidates:
        _check_once(name, schema, shard)
    return candidates[0] if candidates else ""


def _check_once(name: str, schema: pa.Schema, shard: str) -> None:
    count = schema.names.count(name)
    if count > 1:
        raise DataSetError(
            f"{shard}: has {count} columns with the name {name!r}, and it is not known which one is meant; write the "
            "shards again with names that differ."
        )


def _why_none(needed: str, roles: tuple[str, ...], schema: pa.Schema) -> str:
    known = [name for role in roles for name in COLUMN_NAMES[role]]
    options = "name yours with `fuseray shards index URI` and --image-column, --address-column or --captions-column."
    unfit = [name for name in known if name in schema.names]
    if unfit:
        role = next(role for role in roles if unfit[0] in COLUMN_NAMES[role])
        return f"{_cannot_hold(unfit[0], schema.types[_at(unfit[0], schema)], role)} If another column does, {options}"
    return f"no column of {needed} among {', '.join(schema.names)}; known names are {', '.join(known)}. N{options[1:]}"


def _cannot_hold(name: str, column_type: pa.DataType, role: str) -> str:
    return f"the column {name!r} is of type {column_type}, which cannot hold {_MEANING[role]}."


def _plain(column_type: pa.DataType) -> pa.DataType:
    """Return the type of the values of an extension type or of a dictionary."""
    if isinstance(column_type, pa.BaseExtensionType):
        return _plain(column_type.storage_type)
    return _plain(column_type.value_type) if types.is_dictionary(column_type) else column_type


def _is_list(column_type: pa.DataType) -> bool:
    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(is_kind(column_type) for is_kind in kinds)


def _is_text(column_type: pa.DataType) -> bool:
    """Return whether values are text, or bytes: some programs write text as bytes."""
    kinds = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_kind(column_type) for is_kind in kinds) or _is_bytes(column_type)


def _is_bytes(column_type: pa.DataType) -> bool:
    kinds = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return any(is_kind(column_type) for is_kind in kinds)


def _is_image(column_type: pa.DataType) -> bool:
    if types.is_struct(column_type):
        parts = {part.name: _plain(part.type) for part in column_type}
        return any(name in parts and _is_text(parts[name]) for name in ("bytes", "path"))
    return _is_text(column_type)


def _or_list(holds: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda column_type: holds(_plain(column_type.value_type) if _is_list(column_type) else column_type)


def _is_key(column_type: pa.DataType) -> bool:
    return not (types.is_nested(column_type) or types.is_null(column_type) or _is_bytes(column_type))


_HOLDS: dict[str, Callable[[pa.DataType], bool]] = {
    "image": _or_list(_is_image),
    "address": _is_text,
    "captions": _or_list(_is_text),
    "key": _is_key,
    "fields": lambda column_type: types.is_struct(column_type) or _is_text(column_type),
    "image_id": _is_key,
}
_MEANING = {
    "image": "images: bytes, addresses, or a struct with a field `bytes` or `path`",
    "address": "the addresses of images: text",
    "captions": "captions: text, or a list of texts",
    "key": "keys: text or numbers",
    "fields": "fields: a struct, or the text of a JSON object",
    "image_id": "image ids: text or numbers",
}
