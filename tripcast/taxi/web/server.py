"""`tripcast serve`: one process, one event loop, that answers until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import json
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
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.service import Service
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi import model_name
from tripcast.taxi.web.api import make_api

#: Seconds that requests have to finish when the service is told to stop, and then the log to be written.
_STOP_SECONDS = 10

#: Seconds that an idle connection is kept.
_KEEP_ALIVE_SECONDS = 75

#: Seconds that a client has to send a request, from its first byte, or from connecting, to its last.
_REQUEST_SECONDS = 10

_TOO_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
)


class _Connection(HttpToolsProtocol):
    """A connection that is closed if a request does not come to an end; uvicorn would wait for ever."""

    _deadline: asyncio.TimerHandle | None = None
    _incomplete = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_REQUEST_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._incomplete:
            if self._deadline is None:
                self._deadline = self.loop.call_later(_REQUEST_SECONDS, self._give_up)
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_message_begin(self) -> None:
        self._incomplete = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._incomplete = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            sentence = f"The request did not arrive within {_REQUEST_SECONDS} seconds. Send it without pauses."
            body = json.dumps({"error": sentence, "field": None}).encode()
            self.transport.write(_TOO_LATE % (len(body), body))
        self.transport.close()


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
    service = Service(model_name(taxi), settings.home)
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
        http=_Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    # uvicorn handles both signals, and raises them again when it has stopped: that is the end then, and a good one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        sys.exit(1)  # uvicorn has said why: the port is taken, for example
