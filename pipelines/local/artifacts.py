"""What the steps of a local run make, kept in an artifact store as a cluster keeps it in its own."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from tripcast.storage.store import Store, sha256_of

#: What a browser shall take an artifact for, by kfp's type.
_CONTENT_TYPES = {"system.HTML": "text/html; charset=utf-8", "system.Markdown": "text/markdown; charset=utf-8"}


class RunArtifacts:
    """Copies of a run's artifacts, under ``runs/<run>/<step>/<artifact>``.

    ``runs/<run>/artifacts.json`` lists all of them: for each its ``step``, ``name``, ``type`` and ``metadata`` as kfp
    has them, its ``uri``, and the SHA-256 of each of its ``files``. It is written after each step, and after what it
    lists.

    Args:
        store: Where they are kept.
        root: The folder that the runs' own folders are in.
    """

    def __init__(self, store: Store, root: Path) -> None:
        self._store = store
        self._root = root
        self._listed: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def publish(self, step: Path, executor_input: dict[str, Any]) -> None:
        """Keep the artifacts of a step that has succeeded.

        Args:
            step: The step's folder.
            executor_input: What kfp told the step; it names the types of the artifacts.

        Raises:
            StorageError: If one cannot be kept.
        """
        output = step / "executor_output.json"
        place = step.relative_to(self._root)
        declared = executor_input["outputs"].get("artifacts", {})
        artifacts = [
            self._keep(name, declared[name]["artifacts"][0]["type"]["schemaTitle"], entry, place)
            for name, list_of_one in json.loads(output.read_text()).get("artifacts", {}).items()
            for entry in list_of_one["artifacts"]
            if Path(entry["uri"]).exists()
        ]
        with self._lock:
            self._listed += artifacts
            listing = json.dumps(self._listed, indent=1) + "\n"
            self._store.write(f"runs/{place.parts[0]}/artifacts.json", listing.encode(), "application/json")

    def _keep(self, name: str, kind: str, entry: dict[str, Any], place: Path) -> dict[str, Any]:
        path = Path(entry["uri"])
        key = f"runs/{place}/{name}"
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        hashes = {}
        for file in files:
            inside = file.relative_to(path).as_posix() if path.is_dir() else ""
            self._store.put(file, f"{key}/{inside}".rstrip("/"), _CONTENT_TYPES.get(kind))
            hashes[inside or name] = sha256_of(file)
        return {
            "step": str(place),
            "name": name,
            "type": kind,
            "metadata": entry.get("metadata", {}),
            "uri": f"{self._store.uri}/{key}",
            "files": hashes,
        }
