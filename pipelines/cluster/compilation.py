"""Pipelines to YAML: what the Kubeflow Pipelines UI takes, and what a reviewer reads."""

from __future__ import annotations

import ast
import difflib
import re
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.graph_component import GraphComponent

from components.step import IMAGE
from pipelines.monitoring import monitoring
from pipelines.policy import PARALLELISM
from pipelines.scoring import scoring
from pipelines.training import training
from tripcast.kubeflow import version_stem

#: A dictionary in the comment at the head of a compiled file.
_DICTIONARY = re.compile(r"(?<=\[Default: )\{.*\}(?=\]$)", re.MULTILINE)

#: Every pipeline of the project, by the name of its file.
PIPELINES: dict[str, GraphComponent] = {
    "training": training,
    "scoring": scoring,
    "monitoring": monitoring,
}


def compile_all(folder: Path, image: str, parallelism: int = PARALLELISM) -> list[Path]:
    """Compile every pipeline.

    Args:
        folder: Where the YAML files go.
        image: The container image of the steps.
        parallelism: How many months, or candidates, are worked on at a time.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pipeline in PIPELINES.items():
        file = folder / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        file.write_text(_adapted(_in_order(file.read_text()), image, parallelism))
        files.append(file)
    return files


def _in_order(text: str) -> str:
    """The entries of dictionaries in the comment by name: protobuf has them in another order in every process."""
    return _DICTIONARY.sub(lambda found: repr(dict(sorted(ast.literal_eval(found[0]).items()))), text)


def version_name(file: Path, commit: str) -> str:
    """What a compiled pipeline is called on a cluster: the commit, and a hash of the file.

    So nothing that differs has one name: not another image, not another work tree. A version is never changed.

    Args:
        file: The compiled pipeline.
        commit: As in ``tripcast.settings.Settings``.
    """
    return f"{version_stem(commit)}-{sha256(file.read_bytes()).hexdigest()[:8]}"


def write_manifests(
    folder: Path, image: str, commit: str, namespace: str, parallelism: int = PARALLELISM
) -> list[Path]:
    """Write every pipeline as Kubernetes objects: a ``Pipeline``, and the ``PipelineVersion`` of this code.

    They are for installations of Kubeflow Pipelines that keep pipelines in the Kubernetes API, and for whatever applies
    a Git repository to a cluster. Names are those that ``tripcast upload`` gives by Kubeflow's own API.

    Args:
        folder: Where the YAML files go, one a pipeline.
        image: The container image of the steps.
        commit: The commit of this code, as in ``tripcast.settings.Settings``.
        namespace: Where Kubeflow Pipelines runs.
        parallelism: How many months, or candidates, are worked on at a time.

    Returns:
        The files written.

    Source:
        manifests/kustomize/base/crds/pipelines.kubeflow.org_pipelineversions.yaml and
        backend/src/crd/kubernetes/v2beta1/pipeline_version_name.go of Kubeflow Pipelines 2.17.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with TemporaryDirectory() as scratch:
        for compiled in compile_all(Path(scratch), image, parallelism):
            pipeline, version = f"tripcast-{compiled.stem}", version_name(compiled, commit)
            file = folder / compiled.name
            options = KubernetesManifestOptions(
                pipeline_name=pipeline,
                pipeline_version_name=f"{pipeline}-{version}",
                pipeline_version_display_name=version,
                namespace=namespace,
                include_pipeline_manifest=True,
            )
            compiler.Compiler().compile(
                PIPELINES[compiled.stem],
                str(file),
                kubernetes_manifest_options=options,
                kubernetes_manifest_format=True,
            )
            # kfp leaves the version's own name out, and Kubeflow would show the object's.
            shown = f"\n  displayName: {version}\n"
            text = file.read_text().replace(shown, f"{shown}  versionName: {version}\n")
            file.write_text(_adapted(text, image, parallelism))
            files.append(file)
    return files


def _adapted(text: str, image: str, parallelism: int) -> str:
    """Another image of the steps, where it is named and where a variable tells the step of it; another parallelism.

    Kubeflow Pipelines takes neither as a parameter of a run.
    """
    text = text.replace(f": {IMAGE}\n", f": {image}\n")
    return text.replace(f"parallelismLimit: {PARALLELISM}\n", f"parallelismLimit: {parallelism}\n")


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
