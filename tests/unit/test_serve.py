"""`tripcast serve` and `tripcast ui` before they answer: ports that are taken, and when the page is opened."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from tripcast.cli import main
from tripcast.cli.serve import open_when


def test_a_port_that_is_taken_is_a_failure_and_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["serve", "--port", str(port), "--home", str(tmp_path)])
    assert result.exit_code == 1
    assert f"Port {port} of 127.0.0.1 cannot be listened on: Address already in use." in result.stderr


def test_mlflow_is_not_started_beside_what_answers_on_its_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:  # whatever it speaks
        port = other.getsockname()[1]
        result = CliRunner().invoke(main, ["ui", "--port", str(port), "--home", str(tmp_path)])
    assert result.exit_code == 2
    assert f"On port {port} something answers already" in result.stderr


def test_the_page_is_opened_when_the_service_is_ready_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = [503, 0, 200]
    opened: list[str] = []

    class Starting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if status := statuses.pop(0):
                self.send_response(status)
                self.end_headers()
            else:
                self.wfile.write(b"no HTTP\r\n")

    monkeypatch.setattr("webbrowser.open", opened.append)
    with ThreadingHTTPServer(("127.0.0.1", 0), Starting) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        page = f"http://127.0.0.1:{server.server_port}"
        open_when(f"{page}/readyz", page)
        server.shutdown()
    assert (statuses, opened) == ([], [page])
