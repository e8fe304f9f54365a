"""The web side of a service, whatever it predicts: an ASGI application with a fast path for JSON in, JSON out.

A framework's routing, validation and middleware take longer than a prediction does. So ``Api`` looks up the addresses
that are asked for most before the framework is asked, and msgspec reads and writes their bodies.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

import msgspec
from starlette.responses import Response

from tripcast.errors import StorageError
from tripcast.serving.metrics import Metrics
from tripcast.serving.served_model import NotReady

_log = logging.getLogger("tripcast.serving")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Bytes in one request, inflated.
MAX_BYTES = 2_000_000

#: Seconds after which a client may try again when nothing is loaded: by then the registry has been asked again.
RETRY_AFTER = 5

#: The name under which a handler notes in the scope which registered model is asked, for the metrics.
MODEL = "tripcast.model"

#: The header of a request whose answer waits until no kill of the service loses it.
DURABLE = (b"tripcast-durable", b"true")

_JSON_HEADERS = [(b"content-type", b"application/json")]
_CLOSE = (b"connection", b"close")

#: Of zlib: take what is gzip's and what is deflate's, whichever it is.
_GZIP_OR_DEFLATE = 47

encode = msgspec.json.Encoder().encode


class ErrorAnswer(msgspec.Struct):
    """Why a request was not answered, and which field of it is meant."""

    error: str
    field: str | None = None


DEFECT = ErrorAnswer("This is a defect of the service; its log has the details.")


class BadRequest(Exception):
    """A request that cannot be answered, and why.

    Attributes:
        status: Of the answer, 4xx.
        sentence: What is wrong with what, and what to do.
        field: Where in the body, for example ``trips[3].pickup_zone``; None if it is not about one field.
    """

    def __init__(self, status: int, sentence: str, field: str | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.field = field


class ClientGone(Exception):
    """The client has closed the connection; nobody waits for an answer."""


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of a route that has no fast path."""
    return Response(encode(content), status, headers, media_type="application/json")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Receive a JSON body of a limited size.

    Raises:
        BadRequest: If it is too large (413), said to be something else or of an unknown encoding (415), or a header
            has another value than it may have (422).
        ClientGone: If the client leaves, or was too slow (``connections.py`` closes its connection).
    """
    headers = dict(scope["headers"])
    if b"inference-header-content-length" in headers:
        raise BadRequest(
            415,
            "The body holds tensors as the Open Inference Protocol's binary extension has them (the header "
            "'Inference-Header-Content-Length'), which this server does not know. Send them as JSON: "
            "tritonclient and kserve do with set_data_from_numpy(…, binary_data=False).",
        )
    kind = headers.get(b"content-type", b"application/json")  # what is not said to be anything is read as JSON
    if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise BadRequest(415, "The body has to be JSON. Send it with the header 'Content-Type: application/json'.")
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b"gzip", b"deflate"):
        raise BadRequest(
            415, f"The body is encoded as '{encoding.decode('latin-1')}'. Send it as it is, or as gzip or deflate."
        )
    if headers.get(DURABLE[0], b"true") not in (b"true", b"false"):
        raise BadRequest(422, f"The header '{DURABLE[0].decode()}' is either 'true' or 'false'.", DURABLE[0].decode())
    length = int(headers.get(b"content-length", 0))
    if length > MAX_BYTES:
        raise _too_large(f"has {length:,} bytes")
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BYTES:
            raise _too_large("is larger")
    if message["type"] == "http.disconnect":
        raise ClientGone
    return body if encoding == b"identity" else _inflate(body, encoding.decode())


def _inflate(body: bytes, encoding: str) -> bytes:
    inflater = zlib.decompressobj(_GZIP_OR_DEFLATE)
    try:
        plain = inflater.decompress(body, MAX_BYTES + 1)
    except zlib.error:
        plain = None
    if plain is None or (not inflater.eof and len(plain) <= MAX_BYTES):
        raise BadRequest(400, f"The body is not {encoding}, or not all of it. Send it as it is, or compress it anew.")
    if len(plain) > MAX_BYTES:
        raise _too_large("is larger when it is inflated")
    return plain


def _too_large(how: str) -> BadRequest:
    return BadRequest(413, f"The body {how}, and {MAX_BYTES:,} bytes are the most. Send several smaller requests.")


class FastRoute:
    """An address with the fast path: POST, JSON in, JSON out.

    Args:
        path: The address; what its requests are counted under.
        handle: Turns a body into an answer, and notes ``MODEL`` in the scope; may raise ``BadRequest`` or ``NotReady``.
        flush: Awaited before an answer with the header ``DURABLE``; may raise ``StorageError``.
    """

    def __init__(
        self, path: str, handle: Callable[[Scope, bytes], Awaitable[bytes]], flush: Callable[[], Awaitable[None]]
    ) -> None:
        self.path = path
        self._handle = handle
        self._flush = flush

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer a request and return the HTTP status (499 if the client disconnected)."""
        status, headers = 200, _JSON_HEADERS
        try:
            body = await self._handle(scope, await read_body(scope, receive))
            if DURABLE in scope["headers"]:
                await self._flush()
        except BadRequest as bad:
            status, body = bad.status, encode(ErrorAnswer(bad.sentence, bad.field))
            if status in (413, 415):  # the rest of the body is not waited for
                headers = [*_JSON_HEADERS, _CLOSE]
        except (NotReady, StorageError) as trouble:
            status, body = 503, encode(ErrorAnswer(str(trouble)))
            headers = [*_JSON_HEADERS, (b"retry-after", b"%d" % RETRY_AFTER)]
        except ClientGone:
            return 499
        except Exception:  # a defect, answered as one
            _log.exception("%s failed.", self.path)
            status, body = 500, encode(DEFECT)
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": body})
        return status


class Api:
    """The whole web application: counts every request, and takes the fast path where there is one.

    HEAD is answered wherever GET is.

    Args:
        app: Answers what has no fast path.
        fast: The routes that have one.
        metrics: Counts the requests.
    """

    def __init__(self, app: App, fast: list[FastRoute], metrics: Metrics) -> None:
        self._app = app
        self._fast = {("POST", route.path): route for route in fast}
        self._observe = metrics.observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        route = self._fast.get((scope["method"], scope["path"]))
        if route is not None:
            status = await route.answer(scope, receive, send)
            self._observe(route.path, scope.get(MODEL, ""), status, perf_counter() - started)
            return
        status = 499

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        if scope["method"] == "HEAD":  # uvicorn, which has the original scope, leaves the body out
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, receive, noting_send)
        except Exception:  # it has been answered, see DEFECT
            _log.exception("%s %s failed.", scope["method"], scope["path"])
        path = getattr(scope.get("route"), "path", "other")
        self._observe(path, scope.get(MODEL, ""), status, perf_counter() - started)
