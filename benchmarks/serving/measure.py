"""The service beside what else one could take, on this machine.

    python benchmarks/serving/measure.py ../shared/data [rounds]

Needs wrk (Debian: apt-get install wrk). Trains on 2021-01 with 2021-02 as the test month in a home of its own, and
starts five services: ours with its log on; ours with a model for every taxi, the requests spread over them; an empty
FastAPI handler on the same server; `mlflow models serve` of the same registered model; and the course's Flask service
under gunicorn. The contestants take turns, so that whatever else the machine does falls on all of them; what is printed
are medians of the rounds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.settings import Settings
from tripcast.taxi import model_name
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.pyfunc import flavour

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent

TRIP = {"pickup_zone": 74, "dropoff_zone": 236, "trip_distance_miles": 2.3, "pickup_datetime": "2021-02-10T08:15:00"}
#: The same trip as the publisher records it, which is what the registered model takes.
RAW_TRIP = {
    "lpep_pickup_datetime": "2021-02-10T08:15:00",
    "PULocationID": 74,
    "DOLocationID": 236,
    "trip_distance": 2.3,
}

#: Seconds of one run of wrk.
SECONDS = 3

#: Asks whether a service is there; making one takes longer than some services take to start.
_CLIENT = httpx.Client(timeout=60)

#: Swaps of the champion under load.
SWAPS = 100


@dataclass
class Contestant:
    """A service that is measured.

    Attributes:
        name: What it is called in the table.
        command: Starts it, ``{port}`` being replaced.
        ready: The address that answers 200 when it can predict.
        path: Where predictions are asked for.
        bodies: What is asked, one after the other.
        environment: Beside that of this process.
        rates: Requests a second, by number of connections.
        p99: The 99th percentile of the latency in ms, by number of connections.
        processor: Microseconds of the processor's time that its process tree takes for a request, of all runs.
        seconds: From its start to its first answer, a cold and then warm starts.
        megabytes: Resident memory after the load, of its process tree.
    """

    name: str
    command: Sequence[str | Path]
    ready: str
    path: str
    bodies: Sequence[object]
    environment: dict[str, str] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    p99: dict[int, list[float]] = field(default_factory=dict)
    processor: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    megabytes: str = ""
    process: subprocess.Popen[bytes] | None = None
    url: str = ""

    def start(self, output: Path) -> None:
        """Start it, and note how long it took to answer."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [str(part).replace("{port}", str(port)) for part in self.command]
        began = time.perf_counter()
        with output.open("ab") as sink:
            self.process = subprocess.Popen(
                command, cwd=HERE, env={**os.environ, **self.environment}, stdout=sink, stderr=sink
            )
        while True:
            try:
                if _CLIENT.get(self.url + self.ready).status_code in (200, 405):
                    break
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.perf_counter() - began > 120:
                sys.exit(f"{self.name} does not answer:\n{output.read_text()}")
            time.sleep(0.01)
        self.seconds.append(time.perf_counter() - began)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
            self.process = None

    def load(self, connections: int, script: Path) -> None:
        """Put it under load, and note what wrk says."""
        headers = '{["Content-Type"] = "application/json"}'
        made = [f'wrk.format("POST", nil, {headers}, [[{json.dumps(body)}]])' for body in self.bodies]
        # The requests have an address only after wrk has started.
        script.write_text(
            f"function init() requests, turn = {{{', '.join(made)}}}, 0 end\n"
            "function request() turn = turn % #requests + 1 return requests[turn] end\n"
        )
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{SECONDS}",
            "--latency",
            "-s",
            str(script),
            self.url + self.path,
        ]
        before = self._processor_seconds()
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        took = self._processor_seconds() - before
        if "Non-2xx" in text or "Socket errors" in text:
            sys.exit(f"{self.name} failed requests:\n{text}")
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
        requests = re.search(r"(\d+) requests in", text)
        assert rate is not None
        assert p99 is not None
        assert requests is not None
        self.processor.append(1e6 * took / int(requests[1]))
        self.rates.setdefault(connections, []).append(float(rate[1]))
        self.p99.setdefault(connections, []).append(float(p99[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[p99[2]])

    @property
    def _processes(self) -> list[psutil.Process]:
        """Its process, and those below it."""
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def _processor_seconds(self) -> float:
        """The processor's time that its process tree has taken."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def note_memory(self) -> None:
        """Note the resident memory of its process, and of its children if it has any."""
        own, *children = (process.memory_info().rss / 1e6 for process in self._processes)
        self.megabytes = f"{own:.0f}" + (f" + {sum(children):.0f}" if children else "")


def add_models(home: Path) -> None:
    """Register the champion in a home for all the other taxis, too, and let it serve."""
    settings = settings_of(home)
    green = Registry(model_name("green"), settings)
    champion = green.traffic().champion
    assert champion is not None
    with TemporaryDirectory() as scratch:
        folder = green.download(champion, Path(scratch))
        for taxi in [taxi for taxi in FEEDS if taxi != "green"]:
            registry = Registry(model_name(taxi), settings)
            with Tracker(model_name(taxi), settings).pipeline_run(taxi, taxi) as run_id:
                registry.register(folder, flavour=flavour("green"), run_id=run_id, tags={})
            registry.promote(1, "It is the first.")


def settings_of(home: Path) -> Settings:
    """Those of a home."""
    store = f"sqlite:///{home / 'mlflow.db'}"
    return Settings(home=home, artifacts=str(home), tracking_uri=store, service_url=None, image="none")


def ours(name: str, home: Path, bodies: Sequence[object]) -> Contestant:
    """Our service on what is registered in a home."""
    environment = {
        "TRIPCAST_HOME": str(home),
        "MLFLOW_TRACKING_URI": settings_of(home).tracking_uri,  # MLflow has put that of another home in ours
        "TRIPCAST_ADMIN_TOKEN": "benchmark",
        "TRIPCAST_COMMIT": "none",
    }
    code = f"from tripcast.taxi.web.server import serve; serve('127.0.0.1', {{port}}, {str(home / 'log')!r})"
    return Contestant(name, [sys.executable, "-c", code], "/readyz", "/predict", bodies, environment)


def contestants(home: Path, all_taxis: Path, course_model: Path) -> list[Contestant]:
    """All of them; ours first."""
    uvicorn = [BIN / "uvicorn", "empty_service:app", "--port", "{port}", "--loop", "uvloop", "--http", "httptools"]
    mlflow = [BIN / "mlflow", "models", "serve", "-m", "models:/tripcast-green@champion", "--env-manager", "local"]
    return [
        ours("tripcast", home, [TRIP]),
        ours(f"tripcast, {len(FEEDS)} models", all_taxis, [{**TRIP, "taxi": taxi} for taxi in FEEDS]),
        Contestant(
            "empty FastAPI handler",
            [*uvicorn, "--no-access-log", "--log-level", "warning"],
            "/predict",
            "/predict",
            [TRIP],
        ),
        Contestant(
            "`mlflow models serve`, the same model",
            [*mlflow, "-p", "{port}"],
            "/ping",
            "/invocations",
            [{"dataframe_records": [RAW_TRIP]}],
            {"MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}", "PATH": f"{BIN}:{os.environ['PATH']}"},
        ),
        Contestant(
            "the course's Flask service",
            [BIN / "gunicorn", "--bind", "127.0.0.1:{port}", "course_service:app"],
            "/predict",
            "/predict",
            [TRIP],
            {"COURSE_MODEL": str(course_model)},
        ),
    ]


def measure_batches(url: str) -> str:
    """Time of a batch of 10,000 trips, and of single requests beside batches."""
    body = json.dumps({"trips": [TRIP] * 10_000})
    headers = {"content-type": "application/json"}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        batches = [_seconds(lambda: client.post("/predict/batch", content=body)) for _ in range(12)][2:]
        done = threading.Event()

        def keep_batching() -> None:
            with httpx.Client(base_url=url, timeout=60, headers=headers) as other:
                while not done.is_set():
                    other.post("/predict/batch", content=body).raise_for_status()
                    time.sleep(0.1)

        def singles() -> float:
            return statistics.quantiles(
                [_seconds(lambda: client.post("/predict", json=TRIP)) for _ in range(2000)], n=100
            )[98]

        alone = singles()
        thread = threading.Thread(target=keep_batching)
        thread.start()
        beside = singles()
        done.set()
        thread.join()
    return (
        f"A batch of 10,000 trips: {1e3 * statistics.median(batches):.0f} ms. p99 of single requests: "
        f"{1e3 * alone:.1f} ms, and {1e3 * beside:.1f} ms beside batches."
    )


def _seconds(call: Callable[[], httpx.Response]) -> float:
    began = time.perf_counter()
    call().raise_for_status()
    return time.perf_counter() - began


def measure_swaps(service: Contestant, home: Path, script: Path) -> str:
    """Swap the champion back and forth while wrk asks for predictions."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    done = threading.Event()
    kept = service.rates, service.p99, service.processor
    service.rates, service.p99, service.processor = {}, {}, []

    def load() -> None:
        while not done.is_set():
            service.load(16, script)

    took = []
    with ThreadPoolExecutor(1) as beside:
        loading = beside.submit(load)
        for turn in range(SWAPS):
            version = 2 - turn % 2
            client.set_registered_model_alias("tripcast-green", "champion", str(version))
            began = time.perf_counter()
            answer = _CLIENT.post(service.url + "/reload", headers={"authorization": "Bearer benchmark"})
            assert answer.json()["champion"]["version"] == version, answer.text
            took.append(time.perf_counter() - began)
        done.set()
        loading.result()  # ends the program if a request failed
    requests = int(sum(service.rates[16]) * SECONDS)
    service.rates, service.p99, service.processor = kept
    return f"{SWAPS} swaps under load, {statistics.median(took):.2f} s each: {requests:,} requests, none failed."


def main(folder: str, rounds: int = 5) -> None:
    """Measure and print Markdown."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: on Debian, apt-get install wrk.")
    with TemporaryDirectory() as scratch:
        home, script, output = Path(scratch) / "home", Path(scratch) / "wrk.lua", Path(scratch) / "output.txt"
        train = [
            BIN / "tripcast",
            "train",
            "--source",
            folder,
            "--train",
            "2021-01",
            "--test",
            "2021-02",
            "--home",
            home,
        ]
        subprocess.run([*train, "--candidates", "linear"], check=True, capture_output=True)
        subprocess.run([*train, "--candidates", "lightgbm"], check=True, capture_output=True)
        course_model = Path(scratch) / "course.npz"
        sys.path.insert(0, str(HERE))
        from course_service import train as train_course_model

        train_course_model(Path(folder) / "green_tripdata_2021-01.parquet", course_model)

        all_taxis = Path(scratch) / "all-taxis"
        shutil.copytree(home, all_taxis)
        add_models(all_taxis)
        services = contestants(home, all_taxis, course_model)
        try:
            for service in services:
                service.start(output)
            for number in range(rounds + 1):
                for connections in (1, 16):
                    for service in services:
                        service.load(connections, script)
                if number == 0:  # warms up
                    for service in services:
                        service.rates, service.p99, service.processor = {}, {}, []
            for service in services:
                service.note_memory()
            single, several, empty, *others = services
            for service in (several, empty, *others):
                service.stop()
            remarks = [measure_batches(single.url), measure_swaps(single, home, script)]
            single.stop()
            for service in services:
                for _ in range(2):
                    service.start(output)
                    service.stop()
        finally:
            for service in services:
                service.stop()

    print("| service | requests/s at 1 | at 16 | of the empty handler | us a request | p99 ms at 16 | ready s | MB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for service in services:
        one, sixteen = (statistics.median(service.rates[connections]) for connections in (1, 16))
        shares = [
            statistics.median(
                rate / base for rate, base in zip(service.rates[connections], empty.rates[connections], strict=True)
            )
            for connections in (1, 16)
        ]
        print(
            f"| {service.name} | {one:,.0f} | {sixteen:,.0f} | {shares[0]:.0%}, {shares[1]:.0%} | "
            f"{statistics.median(service.processor):.0f} | "
            f"{statistics.median(service.p99[16]):.1f} | {statistics.median(service.seconds[1:]):.2f} | "
            f"{service.megabytes} |"
        )
    print("\n" + "\n\n".join(remarks))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
