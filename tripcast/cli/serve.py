"""`tripcast serve` and `tripcast ui`: the prediction service, and MLflow's pages, on this machine."""

from __future__ import annotations

import os
import sys

import click

from tripcast.cli import options
from tripcast.cli.group import main
from tripcast.settings import Settings


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--log",
    metavar="PLACE",
    help="Where every prediction is logged: 's3://bucket/prefix' or a folder.  [default: $TRIPCAST_ARTIFACTS, or the "
    "home]",
)
@options.taxi
@options.home
def serve(host: str, port: int, log: str | None, taxi: str) -> None:
    """Answer requests for predictions, and show the page; follow the registry while that runs."""
    from tripcast.taxi.web.server import serve

    serve(taxi, host, port, log or Settings.load().artifacts)


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port on this machine.")
@options.home
def ui(port: int) -> None:
    """Open MLflow on everything that was tracked: runs, reports, models."""
    settings = Settings.load()
    if settings.tracking_uri.startswith(("http://", "https://")):
        click.echo(f"MLflow runs already, at {settings.tracking_uri}")
        return
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", settings.tracking_uri]
    command += ["--default-artifact-root", (settings.home / "artifacts").as_uri()]
    settings.home.mkdir(parents=True, exist_ok=True)
    click.echo(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", *command])
