"""The connections of a service: none is held for ever, and none is cut off without a word when the service stops."""

from __future__ import annotations

import asyncio
import signal
import socket
from time import monotonic
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tripcast.serving.asgi import ErrorAnswer, encode

#: Seconds that an idle connection is kept.
KEEP_ALIVE_SECONDS = 75

#: Seconds that a client has to send a request, from its first byte, or from connecting, to its last.
_REQUEST_SECONDS = 10

#: Seconds that a client has to take an answer.
_ANSWER_SECONDS = 60

#: Seconds in which answers announce that their connection closes, before those without requests are closed.
_DRAIN_SECONDS = 3

_TOO_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
)


class Connection(HttpToolsProtocol):
    """A connection that is closed if a request or an answer does not get through; uvicorn would wait for ever."""

    _arrival: asyncio.TimerHandle | None = None
    _departure: asyncio.TimerHandle | None = None
    _incomplete = True
    _completed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client connects."""
        super().connection_made(transport)
        self._arrival = self.loop.call_later(_REQUEST_SECONDS, self._refuse_late_request)

    def data_received(self, data: bytes) -> None:
        """The client sends."""
        self._completed = False
        super().data_received(data)
        # Once for all that was received: a timer for each request would take as long as the prediction.
        if self._arrival is not None and (self._completed or not self._incomplete):
            self._arrival.cancel()
            self._arrival = None
        if self._incomplete and self._arrival is None:
            self._arrival = self.loop.call_later(_REQUEST_SECONDS, self._refuse_late_request)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._incomplete = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._incomplete, self._completed = False, True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written, to the client or to a buffer."""
        super().on_response_complete()
        if self.transport.is_closing():  # it closes when its last bytes are taken
            self._await_departure()

    def pause_writing(self) -> None:
        """The buffer is full: the client does not read."""
        super().pause_writing()
        self._await_departure()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._departure is not None and not self.transport.is_closing():
            self._departure.cancel()
            self._departure = None

    def timeout_keep_alive_handler(self) -> None:
        """No request has come for a while."""
        super().timeout_keep_alive_handler()
        self._await_departure()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        for timer in (self._arrival, self._departure):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _await_departure(self) -> None:
        if self._departure is None and self.transport.get_write_buffer_size():
            self._departure = self.loop.call_later(_ANSWER_SECONDS, self.transport.abort)

    def _refuse_late_request(self) -> None:
        self._arrival = None
        if self.flow.read_paused:  # the rest of the request waits for the answers to those before it
            self._arrival = self.loop.call_later(_REQUEST_SECONDS, self._refuse_late_request)
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            sentence = f"The request did not arrive within {_REQUEST_SECONDS} seconds. Send it without pauses."
            body = encode(ErrorAnswer(sentence))
            self.transport.write(_TOO_LATE % (len(body), body))
        self.transport.close()
        self._await_departure()


class Server(uvicorn.Server):
    """A server that, on SIGTERM, has its last answers announce that their connections close, before it closes any.

    A client that sends a request on a connection that is being closed gets none, and cannot tell whether it was heard.
    """

    _drains = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal."""
        self._drains = sig == signal.SIGTERM
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what still comes, and then close."""
        self.server_state.default_headers.append((b"connection", b"close"))
        end = monotonic() + _DRAIN_SECONDS
        while self._drains and self.server_state.connections and monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
