"""What Kubeflow Pipelines does to values on their way from step to step, and kfp's local runner does not.

A run on this machine, and the tests of compiled commands, hand values on as a cluster does, or refuse.

Source:
    backend/src/v2/metadata/converter.go and client.go, and backend/src/v2/component/launcher_v2.go of Kubeflow
    Pipelines 2.17; numbers are written by google.golang.org/protobuf/encoding/protojson.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

#: What becomes of metadata that is neither a string nor a number.
_CHANGED = {
    list: 'hands a list on as {"list": [...]}',
    dict: 'hands a dictionary on as {"struct": {...}}',
    bool: "hands a boolean on as 1 or 0",
    type(None): "refuses None: the step fails",
}

#: Linux starts no program with a longer argument (MAX_ARG_STRLEN), and a step's inputs are one.
_LONGEST_ARGUMENT = 128 * 1024 - 1


class NotHandedOn(ValueError):
    """A value that does not reach the next step on Kubeflow Pipelines as it was written."""


def as_handed_on(executor_input: Mapping[str, Any]) -> dict[str, Any]:
    """What a step is told, as a cluster tells it.

    All numbers are doubles, and whole ones are written without a point: a step's 3.0 is the next one's 3, in parameters
    and in metadata. An artifact's name is a number of ML Metadata's, which adds to its metadata.

    Args:
        executor_input: What kfp tells a step.

    Raises:
        NotHandedOn: If it is more than a step can be told.
    """
    told: dict[str, Any] = _numbers(executor_input)
    entries = [
        entry for listed in told.get("inputs", {}).get("artifacts", {}).values() for entry in listed["artifacts"]
    ]
    for number, entry in enumerate(entries, 1):
        entry["metadata"] = {
            "display_name": entry.get("name", ""),
            "store_session_info": "{}",
            **entry.get("metadata", {}),
        }
        entry["name"] = str(number)
    size = len(json.dumps(told).encode())
    if size > _LONGEST_ARGUMENT:
        raise NotHandedOn(
            f"its inputs are {size:,} bytes long, and no step can be told more than {_LONGEST_ARGUMENT:,}. Hand on "
            "what is long as a file of an artifact."
        )
    return told


def _numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _numbers(entry) for key, entry in value.items()}
    return [_numbers(entry) for entry in value] if isinstance(value, list) else value


def check_output(executor_output: Mapping[str, Any]) -> None:
    """Check what a step says of its outputs.

    Args:
        executor_output: What kfp's executor leaves behind, ``executor_output.json``.

    Raises:
        NotHandedOn: If a parameter has a number that is not finite, or an entry of an artifact's metadata is neither a
            string nor a finite number.
    """
    for name, value in executor_output.get("parameterValues", {}).items():
        if not all(map(math.isfinite, _floats(value))):
            raise NotHandedOn(
                f"it returned {json.dumps(value)[:60]} as '{name}': Kubeflow Pipelines takes finite numbers only."
            )
    for artifact, listed in executor_output.get("artifacts", {}).items():
        for entry in listed["artifacts"]:
            for name, value in entry.get("metadata", {}).items():
                if isinstance(value, float) and not math.isfinite(value):
                    became = f"refuses {value}: the step fails"
                elif type(value) in _CHANGED:
                    became = _CHANGED[type(value)]
                else:
                    continue
                raise NotHandedOn(
                    f"it put {json.dumps(value)[:60]} into the metadata of its artifact '{artifact}', as '{name}'. "
                    f"Metadata is strings and numbers: Kubeflow Pipelines {became}. Write a record by "
                    "tripcast.jobs.handover, or a file of the artifact."
                )


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        yield from _floats(list(value.values()))
    elif isinstance(value, list):
        for entry in value:
            yield from _floats(entry)
