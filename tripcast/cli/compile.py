"""`tripcast compile`: the pipelines as YAML."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tripcast.cli.group import FAILURE, main


@main.command("compile")
@click.option("--image", help="The container image of the steps.  [default: the one named in components/step.py]")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("compiled"), show_default=True)
@click.option("--check", is_flag=True, help="Write nothing; fail with a diff if a file there is not what it would be.")
def compile_pipelines(image: str | None, output: Path, check: bool) -> None:
    """Compile every pipeline to YAML, for the Kubeflow Pipelines UI and for review."""
    from components.step import IMAGE
    from pipelines.compilation import check_compiled, compile_all

    if not check:
        for file in compile_all(output, image or IMAGE):
            click.echo(f"Wrote {file}")
        return
    difference = check_compiled(output, image or IMAGE)
    if difference:
        click.echo(difference)
        click.echo(
            f"The pipelines in {output} are not what the code says: compile them and commit the result.", err=True
        )
        sys.exit(FAILURE)
    click.echo(f"The pipelines in {output} are what the code says.", err=True)
