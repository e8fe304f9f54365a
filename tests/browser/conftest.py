"""The page in a real browser, on a real service."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import make_trips
from tests.parts import free_port, program, wait_for
from tripcast.jobs.train import train
from tripcast.serving.model_cache import DesiredState, ModelCache, ServedVersion
from tripcast.taxi import model_name

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Milliseconds: on a busy machine the page takes its time.
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)

#: Nobody listens there: the service starts from its local copy.
NO_REGISTRY = "http://127.0.0.1:1"


def served(copy: ModelCache, version: int, candidate: str, taxi: str = "green", **tags: str) -> ServedVersion:
    """A model of a candidate, trained and put into the local copy."""
    months = {"2021-01": "1" * 64, "2021-02": "2" * 64}
    model = train(candidate, make_trips(), taxi=taxi, data=months)
    folder = copy.model(model.digest)
    model.save(folder)
    return ServedVersion(version, folder, {f"tripcast.{name}": value for name, value in tags.items()})


@pytest.fixture(scope="session")
def page_url(tmp_path_factory) -> Iterator[str]:
    """Where the page is: with a champion and a challenger behind it that answers a tenth of the riders."""
    home = tmp_path_factory.mktemp("home")
    copy = ModelCache(home, "tripcast-green")
    champion = served(copy, 3, "lightgbm", rmse="4.84", notebook_rmse="7.22", test_month="2021-03")
    (champion.folder / "model_card.html").write_text("<!DOCTYPE html><h1>The card</h1>")
    copy.write(DesiredState(champion, served(copy, 4, "linear"), share=0.1))
    with service_in(home) as url:
        yield url


@pytest.fixture(scope="session")
def taxis_url(tmp_path_factory) -> Iterator[str]:
    """Where the page of a service is that has a champion for several kinds of taxis, one without distances."""
    home = tmp_path_factory.mktemp("taxis")
    for taxi, version in (("green", 3), ("yellow", 5), ("fhv", 7)):
        copy = ModelCache(home, model_name(taxi))
        candidate = "linear" if taxi == "yellow" else "lightgbm"
        champion = served(copy, version, candidate, taxi, rmse="4.84", notebook_rmse="7.22", test_month="2021-03")
        copy.write(DesiredState(champion, None, share=0.0))
    with service_in(home) as url:
        yield url


@contextmanager
def service_in(home: Path) -> Iterator[str]:
    """A service that starts from the local copy in a home; where it answers."""
    port = free_port()
    code = f"from tripcast.taxi.web.server import serve; serve('127.0.0.1', {port}, {str(home / 'log')!r})"
    environment = {**os.environ, "TRIPCAST_HOME": str(home), "MLFLOW_TRACKING_URI": NO_REGISTRY}
    output = home / "output.txt"
    with (
        output.open("wb") as sink,
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=sink, stderr=sink) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_for(lambda: is_ready(url, process, output), output)
            yield url
        finally:
            process.terminate()


def is_ready(url: str, process: subprocess.Popen[bytes], output: Path) -> bool:
    assert process.poll() is None, output.read_text()
    try:
        return httpx.get(f"{url}readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; for a module, since Playwright's event loop lets no other run in this thread until it stops."""
    chromium = program("chromium", "On Debian: apt-get install chromium.")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS) as browser,
    ):
        yield browser


@pytest.fixture
def page(browser, page_url) -> Iterator[Page]:
    """A fresh visitor's tab, at the width of a desktop; what fails in the page fails the test."""
    with tab(browser, page_url) as page:
        yield page


@pytest.fixture
def taxis(browser, taxis_url) -> Iterator[Page]:
    """The same where several kinds of taxis are served."""
    with tab(browser, taxis_url) as page:
        yield page


@contextmanager
def tab(browser: Browser, url: str) -> Iterator[Page]:
    """A fresh visitor's tab."""
    with browser.new_context(base_url=url, viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        yield page
        assert failures == []
