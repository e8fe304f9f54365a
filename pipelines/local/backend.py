"""What Kubeflow Pipelines does to values on their way from step to step, and kfp's local runner does not.

A run on this machine, and the tests of compiled commands, hand values on as a cluster does, or refuse.

Source:
    backend/src/v2/metadata/converter.go and backend/src/v2/component/launcher_v2.go of Kubeflow Pipelines 2.17; numbers
    are written by google.golang.org/protobuf/encoding/protojson.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

#: What becomes of metadata that is neither a string nor a number.
_CHANGED = {
    list: 'hands a list on as {"list": [...]}',
    dict: 'hands a dictionary on as {"struct": {...}}',
    bool: "hands a boolean on as 1 or 0",
    type(None): "refuses None: the step fails",
}


class NotHandedOn(ValueError):
    """A value that does not reach the next step on Kubeflow Pipelines as it was written."""


def as_protojson_writes(value: Any) -> Any:
    """A value as a step on a cluster reads it: whole numbers without a point, whatever they were.

    All numbers are doubles there. So a step's 3.0 is the next one's 3, in parameters and in metadata.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, Mapping):
        return {key: as_protojson_writes(entry) for key, entry in value.items()}
    return [as_protojson_writes(entry) for entry in value] if isinstance(value, list) else value


def check_metadata(executor_output: Mapping[str, Any]) -> None:
    """Check the metadata that a step wrote of its artifacts.

    Args:
        executor_output: What kfp's executor leaves behind, ``executor_output.json``.

    Raises:
        NotHandedOn: If an entry is neither a string nor a finite number.
    """
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
