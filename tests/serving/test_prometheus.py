"""The dashboard and the alerts on a real Prometheus that scrapes a real service."""

import json
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from tests.parts import free_port, program, wait_for
from tests.serving.conftest import TRIP

pytestmark = pytest.mark.slow

COMPONENT = Path("deploy/components/observability")
PANELS = json.loads((COMPONENT / "tripcast.json").read_text())["panels"]
QUERIES = [
    (panel["title"], target["expr"].replace("$model", ".+"))  # as Grafana asks for all
    for panel in PANELS
    for target in panel["targets"]
]
#: What needs no version that misbehaves.
SEEN = [expression for title, expression in QUERIES if not title.startswith("Versions refused")]
RULES = yaml.safe_load((COMPONENT / "rules.yaml").read_text())["spec"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]

FIGURES = {
    "champion.rmse": 4.5,
    "champion.interval_coverage": 0.81,
    "psi.trip_distance_miles": 0.03,
    "looked_at": 1.7e9,
    "month_end": 1.69e9,
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, new_home, start_in):
    """A Prometheus with the rules, that has scraped a service with two arms, load, errors and figures."""
    executable = program("prometheus", "Install Debian's package prometheus.")
    home = new_home()
    home.registry.promote(home.versions["boosted"], "It is the first.")
    home.registry.challenger(home.versions["linear"], 0.5, "To compare.")
    home.registry.publish("monitoring", FIGURES)
    home.registry.publish("live", {"psi.pickup_zone": 0.2})
    service = start_in(home)
    service.reload()
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    scrape = {"job_name": "serving", "static_configs": [{"targets": [service.client.base_url.netloc.decode()]}]}
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    arguments = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    output = folder / "output.txt"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [executable, *arguments, f"--web.listen-address=127.0.0.1:{port}"], stdout=sink, stderr=sink
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=20)

    def seen() -> bool:
        # Load goes on meanwhile: a rate wants two scrapes with something between them.
        for rider in range(5):
            service.predict({**TRIP, "rider_id": f"{rider}"})
        service.client.post("/predict", json={**TRIP, "pickup_zone": 9999})
        return all(query(client, expression) for expression in SEEN)

    def ready() -> bool:
        try:
            return client.get("/status/runtimeinfo").status_code == 200
        except httpx.TransportError:
            assert process.poll() is None, output.read_text()
            return False

    try:
        wait_for(ready, output)
        wait_for(seen, output)
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        client.close()


def query(client: httpx.Client, expression: str) -> list[dict]:
    answer = client.get("/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    return [sample for sample in answer["data"]["result"] if sample["value"][1] != "NaN"]


def test_every_metric_of_the_dashboard_and_the_alerts_is_one_that_the_service_has(prometheus):
    answer = prometheus.get("/targets/metadata", params={"match_target": '{job="serving"}'}).json()
    # What Prometheus calls a histogram or a counter has its ending in queries.
    families = {entry["metric"] for entry in answer["data"]}
    asked = " ".join([expression for _, expression in QUERIES] + [rule["expr"] for rule in ALERTS])

    used = {name.removesuffix("_bucket") for name in re.findall(r"\b(?:tripcast|process)_\w+", asked)}
    assert used <= families


def test_the_dashboard_shows_what_is(prometheus):
    found: dict[str, list[dict]] = {}

    def all_found() -> bool:  # for as long as a scrape has failed, there is nothing
        found.update({title: query(prometheus, expression) for title, expression in QUERIES if expression in SEEN})
        return all(found.values())

    wait_for(all_found)

    assert {sample["metric"]["status"] for sample in found["Requests"]} >= {"200", "422"}
    assert 0.0 < float(found["Latency"][0]["value"][1]) < 2.5
    assert {sample["metric"]["arm"]: sample["value"][1] for sample in found["Share of the riders"]} == {
        "champion": "0.5",
        "challenger": "0.5",
    }
    assert {sample["metric"]["arm"] for sample in found["Predictions by version and arm"]} == {"champion", "challenger"}
    # 2021-02, on which the models were judged, ended on 1 March 2021.
    (end,) = query(prometheus, 'tripcast_model_month_end_seconds{arm="champion", model="tripcast-green"}')
    assert end["value"][1] == "1614556800"
    coverage, drift, live = (
        found[title][0]
        for title in ("Coverage of the intervals", "Drift of the latest month, PSI", "Drift of what is asked, PSI")
    )
    assert (coverage["metric"]["name"], coverage["value"][1]) == ("champion.interval_coverage", "0.81")
    assert (drift["metric"]["name"], drift["value"][1]) == ("psi.trip_distance_miles", "0.03")
    assert (live["metric"]["name"], live["value"][1]) == ("psi.pickup_zone", "0.2")


def test_prometheus_evaluates_every_alert(prometheus):
    def rules() -> list[dict]:
        return [rule for group in prometheus.get("/rules").json()["data"]["groups"] for rule in group["rules"]]

    def raised() -> list[str]:
        return [rule["name"] for rule in rules() if rule["state"] != "inactive"]

    # The first evaluation may come before the first scrape, and be under way.
    expected = ["OldModel", "MonitoringSilent", "MonthsLate"]
    wait_for(lambda: raised() == expected)
    wait_for(lambda: {rule["health"] for rule in rules()} == {"ok"})
