"""What Ray itself checks of a file for its cluster launcher: its schema, and its own look at the rest."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, ValidationError

from orchestrator.cluster.files.faults import Faults, mapping
from orchestrator.config.document import KeyPath

KEYS_OUTSIDE_THE_SCHEMA = ("min_workers",)
"""Ray moves them elsewhere before it looks at its schema."""


def check_schema(values: dict[str, Any], faults: Faults) -> None:
    """Note everything that Ray's schema does not allow."""
    on_premises = mapping(values.get("provider")).get("type") == "local"
    seen = {key: value for key, value in values.items() if not (on_premises and key in KEYS_OUTSIDE_THE_SCHEMA)}
    for error in Draft7Validator(_schema()).iter_errors(seen):
        _note(error, faults)


def check_as_ray_does(values: dict[str, Any], faults: Faults) -> None:
    """Let Ray complete and validate the file, which calls no cloud, and note what it says."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            validate_config(prepare_config(json.loads(json.dumps(values))))
    except KeyError as error:
        faults.add((), f"{error.args[0]}: this key is required by Ray for this type of provider.")
    except Exception as error:  # whatever Ray raises is about the file
        faults.add((), f"Ray refuses the file: {str(error) or said.getvalue().strip()}")


@cache
def _schema() -> dict[str, Any]:
    import ray.autoscaler

    text = (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema


def _note(error: ValidationError, faults: Faults) -> None:
    key_path: KeyPath = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        faults.refuse_unknown(key_path, error.instance, error.schema.get("properties", {}))
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                faults.add((*key_path, key), "this key is required.")
    elif error.validator == "type":
        wanted = error.validator_value if isinstance(error.validator_value, str) else " or ".join(error.validator_value)
        faults.add(key_path, f"must be of type {wanted} (got {error.instance!r})")
    elif error.validator == "minimum":
        faults.add(key_path, f"must be at least {error.validator_value} (got {error.instance!r})")
    else:
        faults.add(key_path, error.message)
