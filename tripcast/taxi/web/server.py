"""`tripcast serve`: one process, one event loop, that answers until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# One request is one row: threads would only take the processor from other requests. Read when LightGBM is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import uvicorn
from fastapi import FastAPI

from tripcast.serving.connections import KEEP_ALIVE_SECONDS, Connection, Server
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.service import Service
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi import model_name
from tripcast.taxi.web.api import make_api

#: Seconds that requests have to finish when the service is told to stop, and then the log to be written.
_STOP_SECONDS = 10


def serve(taxi: str, host: str, port: int, log: str) -> None:
    """Serve until SIGTERM or SIGINT: then requests are finished, the log is written, and the follower ended.

    ``TRIPCAST_ADMIN_TOKEN`` in the environment is what ``POST /reload`` asks for.

    Args:
        taxi: ``green`` or ``yellow``.
        host: Address to listen on.
        port: Port to listen on.
        log: Where predictions are logged: a folder, or ``s3://bucket/prefix``.

    Raises:
        StorageError: If the log cannot be kept there.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings.load()
    service = Service(model_name(taxi), settings.home, check="tripcast.taxi.web.version_check")
    predictions = PredictionLog(open_store(log), settings.home / "spool")

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
    server = Server(config)
    server.run()
    if not server.started:
        sys.exit(1)  # uvicorn has said why: the port is taken, for example
