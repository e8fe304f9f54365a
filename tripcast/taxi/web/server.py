"""`tripcast serve`: one process, one event loop, that answers until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# One request is one row: threads would only take the processor from other requests. Read when LightGBM is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import uvicorn
from fastapi import FastAPI

from tripcast.errors import DeploymentError
from tripcast.serving.connections import KEEP_ALIVE_SECONDS, Connection, Server
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.riders import rider_secret
from tripcast.serving.service import Service
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi import model_name
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.web.api import make_api

#: Seconds that requests have to finish when the service is told to stop, and then the log to be written.
_STOP_SECONDS = 10


def serve(host: str, port: int, log: str, *, plain_rider_ids: bool = False) -> None:
    """Serve all taxis until SIGTERM or SIGINT: then requests are finished, the log is written, and the poller ended.

    ``TRIPCAST_ADMIN_TOKEN`` in the environment is what ``POST /reload`` asks for.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        log: Where predictions are logged: a folder, or ``s3://bucket/prefix``.
        plain_rider_ids: Log riders' ids as they are, and not their pseudonyms (``tripcast.serving.riders``).

    Raises:
        InvalidRequest: If the secret of the pseudonyms is too short.
        DeploymentError: If the port cannot be listened on.
        StorageError: If the log cannot be kept there.
    """
    listening = _bind(host, port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings.load()
    check = "tripcast.taxi.web.version_check"
    service = Service({taxi: model_name(taxi) for taxi in FEEDS}, settings.home, check, settings.verify_keys)
    predictions = PredictionLog(
        open_store(log),
        settings.home / "spool",
        rider_secret=None if plain_rider_ids else rider_secret(settings.home),
    )

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        # What was imported and loaded stays: the garbage collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        yield
        await service.stop()
        await asyncio.to_thread(predictions.close, _STOP_SECONDS)

    config = uvicorn.Config(
        make_api(service, predictions, os.environ.get("TRIPCAST_ADMIN_TOKEN"), run),
        host=host,
        port=port,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    # uvicorn handles both signals, and raises them again when it has stopped: that is the end then, and a good one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        Server(config).run(sockets=[listening])
    except OSError as trouble:
        raise _cannot_listen(host, port, trouble) from trouble


def _bind(host: str, port: int) -> socket.socket:
    """Take the port now: what comes before the first request takes seconds."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as trouble:
        raise _cannot_listen(host, port, trouble) from trouble
    return listening


def _cannot_listen(host: str, port: int, trouble: OSError) -> DeploymentError:
    return DeploymentError(
        f"Port {port} of {host} cannot be listened on: {trouble.strerror}. End what listens there, or choose another "
        "address or port (--host, --port)."
    )
