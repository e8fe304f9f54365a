"""`tripcast serve` and `tripcast ui`: the prediction service, and MLflow's pages, on this machine."""

from __future__ import annotations

import signal
import socket
import sys
import time
import webbrowser
from contextlib import suppress
from http.client import HTTPException
from subprocess import Popen
from threading import Thread
from urllib.request import ProxyHandler, build_opener

import click

from tripcast.cli import options
from tripcast.cli.group import FAILURE, main
from tripcast.errors import InvalidRequest
from tripcast.registry.local_store import make_local_store
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
@click.option(
    "--plain-rider-ids",
    is_flag=True,
    help="Log riders' ids as they are. Otherwise what $TRIPCAST_RIDER_SECRET, or a secret of the home, makes of them.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser as soon as it can answer.")
@options.home
def serve(host: str, port: int, log: str | None, plain_rider_ids: bool, open_page: bool) -> None:
    """Answer requests for predictions, and show the page; follow the registry while that runs.

    One service answers for all taxis that have a champion.
    """
    from tripcast.taxi.web.server import serve

    if open_page:
        address = f"http://127.0.0.1:{port}"
        Thread(target=open_when, args=(f"{address}/readyz", address), daemon=True).start()
    serve(host, port, log or Settings.load().artifacts, plain_rider_ids=plain_rider_ids)


def open_when(ready: str, page: str) -> None:
    """Open a page in a browser when an address answers."""
    while not _answers(ready):
        time.sleep(0.5)
    webbrowser.open(page)


def _answers(address: str) -> bool:
    # Not by a proxy of the environment: it is this machine that is asked.
    try:
        with build_opener(ProxyHandler({})).open(address, timeout=5):
            return True
    except (OSError, HTTPException):  # nothing is there, or something that speaks no HTTP
        return False


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port on this machine.")
@options.home
def ui(port: int) -> None:
    """Open MLflow on everything that was tracked: runs, reports, models."""
    settings = Settings.load()
    if settings.tracking_uri.startswith(("http://", "https://")):
        click.echo(f"MLflow runs already, at {settings.tracking_uri}")
        return
    make_local_store(settings.tracking_uri, settings.home / "artifacts")
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    # One worker: several are ended, and started again for ever, where they take more than five seconds to start.
    command += ["--workers", "1", "--backend-store-uri", settings.tracking_uri]
    command += ["--default-artifact-root", (settings.home / "artifacts").as_uri()]
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        raise InvalidRequest(f"On port {port} something answers already: look at it, or choose another --port.")
    click.echo("MLflow starts ...", err=True)
    with Popen(command) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        try:
            while server.poll() is None and not _answers(f"http://127.0.0.1:{port}/health"):
                time.sleep(0.3)
            if server.poll() is None:
                click.echo(f"MLflow is up: http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
            status = server.wait()
        except KeyboardInterrupt:
            status = 0  # the server was interrupted by the same key
    sys.exit(FAILURE if status > 0 else 0)
