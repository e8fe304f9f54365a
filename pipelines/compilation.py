"""Pipelines to YAML: what the Kubeflow Pipelines UI takes, and what a reviewer reads."""

from __future__ import annotations

import difflib
from pathlib import Path
from tempfile import TemporaryDirectory

from kfp import compiler
from kfp.dsl.graph_component import GraphComponent

from components.step import IMAGE
from pipelines.training import training

#: Every pipeline of the project, by the name of its file.
PIPELINES: dict[str, GraphComponent] = {"training": training}


def compile_all(folder: Path, image: str) -> list[Path]:
    """Compile every pipeline.

    Args:
        folder: Where the YAML files go.
        image: The container image of the steps.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pipeline in PIPELINES.items():
        file = folder / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        file.write_text(file.read_text().replace(f"image: {IMAGE}\n", f"image: {image}\n"))
        files.append(file)
    return files


def check_compiled(folder: Path, image: str) -> str:
    """Compare the files of a folder with what the pipelines compile to now, to the last character.

    Args:
        folder: Where the YAML files are.
        image: The container image of the steps.

    Returns:
        A unified diff; empty if there is no difference.
    """
    with TemporaryDirectory() as scratch:
        fresh = {file.name: file.read_text() for file in compile_all(Path(scratch), image)}
    present = {file.name: file.read_text() for file in folder.glob("*.yaml")}
    return "".join(
        line
        for name in sorted(fresh.keys() | present.keys())
        for line in difflib.unified_diff(
            present.get(name, "").splitlines(keepends=True),
            fresh.get(name, "").splitlines(keepends=True),
            f"{folder}/{name} (as it is)",
            f"{folder}/{name} (as it should be)",
        )
    )
