"""Connections: none is held for ever, and none is cut off without a word."""

import asyncio
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import uvicorn

from tests.parts import wait_for
from tests.serving.conftest import TRIP
from tripcast.serving import connections
from tripcast.serving.connections import Connection, Server

BODY = json.dumps(TRIP).encode()
REQUEST = b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


@asynccontextmanager
async def serving(app) -> AsyncIterator[int]:
    """An application behind the service's connections; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1)
        server = Server(config)
        task = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        await task


def answering(body: bytes):
    """An application that answers everything with a body."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    return app


def test_a_client_that_pipelines_without_pause_is_not_cut_off(monkeypatch):
    monkeypatch.setattr(connections, "_REQUEST_SECONDS", 0.05)

    async def pipeline() -> list[bytes]:
        answers = []
        async with serving(answering(b"ok")) as port:
            loop = asyncio.get_running_loop()
            now = loop.time()
            with monkeypatch.context() as patch:
                patch.setattr(loop, "time", lambda: now)  # which a busy machine does not move on
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(REQUEST[:10])
                for _ in range(20):  # each piece ends in the middle of a request
                    now += 0.01
                    writer.write(REQUEST[10:] + REQUEST[:10])
                    answers.append(await reader.readuntil(b"\r\n\r\nok"))
                writer.close()
        return answers

    assert [answer.split(b"\r\n")[0] for answer in asyncio.run(pipeline())] == [b"HTTP/1.1 200 OK"] * 20


@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
def test_a_client_that_does_not_read_loses_its_connection(monkeypatch, size):
    monkeypatch.setattr(connections, "_ANSWER_SECONDS", 0.5)

    async def hold() -> int:
        async with serving(answering(b"x" * size)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            for _ in range(20):
                writer.write(REQUEST)
            await asyncio.sleep(3)
            taken = 0
            with suppress(ConnectionResetError):
                while piece := await reader.read(1 << 20):
                    taken += len(piece)
            return taken

    assert asyncio.run(hold()) < 20 * size


def test_a_service_that_is_told_to_stop_announces_it_and_resets_no_connection(home, start_in):
    home.registry.promote(home.versions["boosted"], "It is the first.")
    service = start_in(home)
    outcomes: Counter[str] = Counter()
    started = threading.Barrier(13)

    def ask() -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=20) as client:
            client.post("/predict", json=TRIP)
            started.wait()
            while True:
                try:
                    answer = client.post("/predict", json=TRIP)
                except httpx.ConnectError:  # it listens no more
                    return
                except httpx.TransportError as failure:
                    outcomes[repr(failure)] += 1
                    return
                outcomes[f"{answer.status_code} {answer.headers.get('connection')}"] += 1
                if answer.headers.get("connection") == "close":
                    return
                time.sleep(0.01)

    clients = [threading.Thread(target=ask) for _ in range(12)]
    for client in clients:
        client.start()
    started.wait()
    wait_for(lambda: outcomes["200 None"] >= 12)
    service.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join()

    assert service.process.wait(20) == 0
    assert set(outcomes) == {"200 None", "200 close"}
    assert outcomes["200 close"] == 12
