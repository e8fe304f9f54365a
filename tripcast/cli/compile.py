"""`tripcast compile`: the pipelines as YAML."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tripcast.cli import options
from tripcast.cli.group import FAILURE, main
from tripcast.settings import Settings


@main.command("compile")
@options.steps
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write to.  [default: compiled, or manifests]",
)
@click.option("--check", is_flag=True, help="Write nothing; fail with a diff if a file there is not what it would be.")
@click.option(
    "--manifests",
    is_flag=True,
    help="Write Pipeline and PipelineVersion objects, for kubectl and GitOps, where Kubeflow keeps its pipelines so.",
)
@click.option("--namespace", default="kubeflow", show_default=True, help="The namespace of such objects.")
def compile_pipelines(
    image: str | None, parallelism: int, output: Path | None, check: bool, manifests: bool, namespace: str
) -> None:
    """Compile every pipeline to YAML, for the Kubeflow Pipelines UI and for review."""
    from components.step import IMAGE
    from pipelines.cluster.compilation import check_compiled, compile_all, write_manifests

    image = image or IMAGE
    if manifests and check:
        raise click.UsageError("--check compares what --manifests does not write: give one of them.")
    if manifests:
        _say(write_manifests(output or Path("manifests"), image, Settings.load().commit, namespace, parallelism))
        return
    output = output or Path("compiled")
    if not check:
        _say(compile_all(output, image, parallelism))
        return
    difference = check_compiled(output, image)
    if difference:
        click.echo(difference)
        click.echo(
            f"The pipelines in {output} are not what the code says: compile them and commit the result.", err=True
        )
        sys.exit(FAILURE)
    click.echo(f"The pipelines in {output} are what the code says.", err=True)


def _say(files: list[Path]) -> None:
    for file in files:
        click.echo(f"Wrote {file}")
