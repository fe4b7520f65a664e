"""A node's configuration on AWS, held against what boto3 knows of the call RunInstances. Nothing is asked of AWS."""

from __future__ import annotations

from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, ServiceModel, Shape, StringShape, StructureShape

from orchestrator.cluster.files.faults import Faults
from orchestrator.config.document import KeyPath
from orchestrator.config.loading import unknown_key

KEYS_OF_RAY = ("SubnetIds",)
"""Ray understands these besides: it picks one of the subnets."""
SET_BY_RAY = ("MinCount", "MaxCount")
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "long": int,
    "boolean": bool,
    "double": (int, float),
    "float": (int, float),
}


def check_run_instances(node_config: Any, faults: Faults, key_path: KeyPath) -> None:
    """Note unknown keys, wrong types and unknown choices at any depth of a `node_config`."""
    if not isinstance(node_config, dict):
        return
    for key in SET_BY_RAY:
        if key in node_config:
            faults.add((*key_path, key), "Ray sets this itself; use min_workers and max_workers of the node type")
    theirs = {key: value for key, value in node_config.items() if key not in (*KEYS_OF_RAY, *SET_BY_RAY)}
    _check_structure(theirs, _run_instances(), faults, key_path)


@cache
def _run_instances() -> StructureShape:
    model = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    shape: StructureShape = model.operation_model("RunInstances").input_shape
    return shape


def _check(value: Any, shape: Shape, faults: Faults, key_path: KeyPath) -> None:
    if isinstance(shape, StructureShape):
        _check_structure(value, shape, faults, key_path)
    elif isinstance(shape, ListShape):
        _check_list(value, shape, faults, key_path)
    elif shape.type_name in TYPES:
        _check_scalar(value, shape, faults, key_path)


def _check_structure(value: Any, shape: StructureShape, faults: Faults, key_path: KeyPath) -> None:
    if not isinstance(value, dict):
        faults.add(key_path, f"must be a mapping (got {value!r})")
        return
    faults.refuse_unknown(key_path, value, shape.members)
    for key, inner in value.items():
        if key in shape.members:
            _check(inner, shape.members[key], faults, (*key_path, key))


def _check_list(value: Any, shape: ListShape, faults: Faults, key_path: KeyPath) -> None:
    if not isinstance(value, list):
        faults.add(key_path, f"must be a list (got {value!r})")
        return
    for index, inner in enumerate(value):
        _check(inner, shape.member, faults, (*key_path, index))


def _check_scalar(value: Any, shape: Shape, faults: Faults, key_path: KeyPath) -> None:
    wanted = TYPES[shape.type_name]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        faults.add(key_path, f"must be of type {shape.type_name} (got {value!r})")
    elif isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        said = (
            unknown_key(str(value), shape.enum)
            .replace("unknown key", "boto3 knows no")
            .replace("known keys", "it knows")
        )
        faults.add(key_path, said if len(said) < 200 else f"boto3 knows no {value!r}; if it is new, upgrade boto3")
