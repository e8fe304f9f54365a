"""Alerts, sent to a real server that takes, refuses, is slow, or is not there."""

import json
import logging
import socket
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.parts import wait_for
from tripcast import http
from tripcast.errors import StorageError
from tripcast.monitoring import alerts
from tripcast.monitoring.alerts import Alert, Delivery, send, webhook_address
from tripcast.storage.store import FolderStore, open_store

ERROR = Alert(
    "green/error/v3/2021-06",
    "RMSE of version 3 is 6.10 minutes.",
    "2021-06",
    "It is 1.25 times what was expected.",
    "runs/monitoring/report.html",
)
DATA = Alert("green/data/2021-07", "2021-07 is broken.", "2021-07", "Half of its rows are bad.")

SECRET = "T000-B000-secret"


class Channel:
    """A webhook that records what it is sent and answers as it is told: a status each, then 200."""

    def __init__(self):
        self.messages = []
        self.answers = deque()
        self.headers = {}
        self.holding = threading.Event()
        self.holding.set()
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                channel.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                channel.holding.wait(30)
                self.send_response(channel.answers.popleft() if channel.answers else 200)
                for name, value in channel.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing waits until all that was sent is read
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self.holding.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def channel(monkeypatch):
    monkeypatch.setattr(http, "_PAUSE", 0.0)
    channel = Channel()
    yield channel
    channel.close()


@pytest.fixture
def nobody(monkeypatch):
    """The address of a port on which nobody listens."""
    monkeypatch.setattr(http, "_PAUSE", 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/services/{SECRET}"


@pytest.fixture
def outbox(tmp_path):
    return FolderStore(tmp_path / "artifacts")


def test_an_alert_says_what_since_when_how_bad_and_where(channel, outbox):
    assert send([ERROR], channel.url, outbox) == Delivery(("green/error/v3/2021-06",), ())
    (message,) = channel.messages
    assert message["text"] == ("RMSE of version 3 is 6.10 minutes. Since 2021-06. It is 1.25 times what was expected.")
    assert [block["text"]["text"] for block in message["blocks"]] == [
        "*RMSE of version 3 is 6.10 minutes.*",
        "*Since* 2021-06\nIt is 1.25 times what was expected.\nruns/monitoring/report.html",
    ]
    assert {block["type"] for block in message["blocks"]} == {"section"}


def test_an_incident_is_told_once(channel, outbox):
    send([ERROR], channel.url, outbox)
    again = Alert(ERROR.key, "It is worse now.", "2021-06", "By far.")
    assert send([again, ERROR], channel.url, outbox) == Delivery((), ())
    assert send([again, DATA, DATA], channel.url, FolderStore(outbox._folder)) == Delivery((DATA.key,), ())
    assert len(channel.messages) == 2


def test_a_stumbling_webhook_is_tried_again(channel, outbox):
    channel.answers.extend([500, 429, 503])
    assert send([ERROR], channel.url, outbox) == Delivery((ERROR.key,), ())
    assert len(channel.messages) == 4


def test_an_alert_that_the_webhook_fails_on_waits_and_is_sent_the_next_time(channel, outbox):
    channel.answers.extend([500] * 4)
    assert send([ERROR, DATA], channel.url, outbox) == Delivery((), (DATA.key, ERROR.key))
    assert len(channel.messages) == 4  # the second was not tried: the first says enough
    assert send([], channel.url, outbox) == Delivery((DATA.key, ERROR.key), ())
    assert len(channel.messages) == 6
    assert send([ERROR, DATA], channel.url, outbox) == Delivery((), ())


def test_an_alert_that_is_refused_does_not_hold_up_the_others(channel, outbox):
    channel.answers.append(400)
    assert send([ERROR, DATA], channel.url, outbox) == Delivery((ERROR.key,), (DATA.key,))
    assert len(channel.messages) == 2


def test_nobody_there_raises_nothing_and_loses_nothing(channel, nobody, outbox):
    assert send([ERROR], nobody, outbox) == Delivery((), (ERROR.key,))
    assert send([ERROR], channel.url, outbox) == Delivery((ERROR.key,), ())


def test_a_slow_webhook_is_not_sent_the_same_again_in_one_call(channel, outbox, monkeypatch):
    monkeypatch.setattr(alerts, "_TIMEOUT", (5.0, 0.2))
    channel.holding.clear()
    assert send([ERROR, DATA], channel.url, outbox) == Delivery((), (DATA.key, ERROR.key))
    wait_for(lambda: bool(channel.messages))  # which a busy machine reads when nobody waits for the answer any more
    channel.close()
    assert len(channel.messages) == 1


def test_a_redirect_is_not_followed(channel, outbox):
    channel.answers.append(307)
    channel.headers["Location"] = "/elsewhere"
    assert send([ERROR], channel.url, outbox) == Delivery((), (ERROR.key,))
    assert len(channel.messages) == 1


@pytest.mark.parametrize("address", ["no address", "http://", "ftp://host/x", "http://[::1/x", "http://" + "a" * 70])
def test_an_address_that_is_none_raises_nothing(outbox, address):
    assert send([ERROR], address, outbox) == Delivery((), (ERROR.key,))


def test_without_a_webhook_alerts_are_logged_once_and_wait(channel, outbox, caplog):
    for _ in range(2):
        assert send([ERROR], None, outbox) == Delivery((), (ERROR.key,))
    assert [record.getMessage() for record in caplog.records] == [
        "RMSE of version 3 is 6.10 minutes. Since 2021-06. It is 1.25 times what was expected. "
        "runs/monitoring/report.html"
    ]
    assert send([], channel.url, outbox).sent == (ERROR.key,)


@pytest.mark.parametrize("trouble", ["nobody", "500", "404", "slow"])
def test_the_address_is_told_to_nobody(request, channel, outbox, caplog, monkeypatch, trouble):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(alerts, "_TIMEOUT", (5.0, 0.2))
    url = channel.url
    if trouble == "nobody":
        url = request.getfixturevalue("nobody")
    elif trouble == "slow":
        channel.holding.clear()
    else:
        channel.answers.extend([int(trouble)] * 4)
    assert send([ERROR], url, outbox).waiting == (ERROR.key,)
    assert f"The alert {ERROR.key} waits" in caplog.text
    assert SECRET not in caplog.text
    assert all(SECRET not in file.read_text() for file in outbox._folder.rglob("*.json"))


def test_urllib3_logs_again_afterwards(channel, outbox, caplog):
    send([ERROR], channel.url, outbox)
    logging.getLogger("urllib3.connectionpool").warning("of somebody else")
    assert "of somebody else" in caplog.text


def test_text_cannot_mention_or_link(channel, outbox):
    send([Alert("key", "<!channel> & <http://evil|here>", "2021-06", "x" * 4000)], channel.url, outbox)
    (message,) = channel.messages
    assert message["blocks"][0]["text"]["text"] == "*&lt;!channel&gt; &amp; &lt;http://evil|here&gt;*"
    assert "<" not in message["text"]
    assert len(message["blocks"][1]["text"]["text"]) == 3000


def test_keys_are_kept_apart_whatever_they_hold(channel, outbox):
    keys = ["a/b", "a_b", "../a", "a b", "ä", ".."]
    delivery = send([Alert(key, key, "2021-06", "Bad.") for key in keys], channel.url, outbox)
    assert sorted(delivery.sent) == sorted(keys)
    assert len(list(outbox._folder.rglob("*.json"))) == 2 * len(keys)
    assert send([Alert(key, key, "2021-06", "Bad.") for key in keys], channel.url, outbox) == Delivery((), ())


def test_a_bucket_remembers_as_a_folder_does(channel, s3):
    s3.create_bucket(Bucket="artifacts")
    outbox = open_store("s3://artifacts/tripcast")
    assert send([ERROR, DATA], None, outbox).waiting == (DATA.key, ERROR.key)
    assert send([ERROR], channel.url, outbox) == Delivery((DATA.key, ERROR.key), ())
    assert send([ERROR, DATA], channel.url, open_store("s3://artifacts/tripcast")) == Delivery((), ())
    assert len(channel.messages) == 2


def test_a_damaged_outbox_names_the_file(channel, outbox):
    send([ERROR], None, outbox)
    (kept,) = outbox._folder.rglob("*.json")
    kept.unlink()
    kept.write_text("{")
    with pytest.raises(StorageError, match=r"2021-06\.json is not an alert"):
        send([], channel.url, outbox)


def test_the_address_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("TRIPCAST_ALERT_WEBHOOK", "https://example.org/hook")
    assert webhook_address() == "https://example.org/hook"
    monkeypatch.setenv("TRIPCAST_ALERT_WEBHOOK", "")
    assert webhook_address() is None
