"""The service when what it depends on is away, and when it is ended itself."""

import os
import shutil
import signal
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from tests.parts import is_running, wait_for
from tests.serving.conftest import TOKEN, TRIP, Home


def break_registry(home: Home) -> bytes:
    """Make MLflow's store unreadable; gives what was in it."""
    content = home.store.read_bytes()
    home.store.write_bytes(b"This is no database." * 500)
    return content


def test_a_service_starts_from_its_local_copy_while_the_registry_is_away(home, start_in):
    home.registry.promote(home.versions["boosted"], "It is the first.")
    first = start_in(home)
    answer = first.predict()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    content = break_registry(home)

    second = start_in(home)
    assert {**second.predict(), "prediction_id": ""} == {**answer, "prediction_id": ""}
    said = second.reload()
    assert said["champion"]["version"] == 1
    assert "MLflow at sqlite:///" in said["problems"][0]
    assert second.metric('tripcast_poller_failures_total{model="tripcast-green"}') >= 1

    home.store.write_bytes(content)
    wait_for(lambda: second.reload()["problems"] == [])


def test_a_service_with_neither_registry_nor_copy_says_so_and_recovers_by_itself(home, start_in):
    home.registry.promote(home.versions["linear"], "It is the first.")
    content = break_registry(home)

    service = start_in(home, ready=False)
    reload = service.client.post("/reload", headers={"authorization": f"Bearer {TOKEN}"})

    for answer in (reload, service.client.get("/readyz"), service.client.post("/predict", json=TRIP)):
        assert answer.status_code == 503
        assert "No model is loaded yet. MLflow at sqlite:///" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) > 0
    assert service.client.get("/healthz").status_code == 200
    assert service.client.get("/v2/health/ready").status_code == 503

    home.store.write_bytes(content)
    wait_for(lambda: service.client.get("/readyz").status_code == 200)
    assert service.predict()["version"] == 2


def test_a_poller_that_dies_is_started_again_and_none_outlives_its_service(home, start_in):
    home.registry.promote(home.versions["boosted"], "It is the first.")
    service = start_in(home)
    # What the service asks for is none of the poller's business.
    assert TOKEN.encode() not in Path(f"/proc/{service.poller}/environ").read_bytes()
    first = service.poller
    assert first is not None
    os.kill(first, signal.SIGKILL)

    assert service.predict()["version"] == 1
    home.registry.promote(home.versions["linear"], "Better.")
    wait_for(lambda: service.predict()["version"] == 2)
    assert service.metric("tripcast_poller_restarts_total") == 1
    second = service.poller
    assert second is not None
    assert second != first

    os.kill(service.process.pid, signal.SIGKILL)
    service.process.wait()
    wait_for(lambda: not is_running(second))


def test_an_answer_that_waits_for_the_disk_is_not_lost_by_a_kill(home, start_in):
    home.registry.promote(home.versions["boosted"], "It is the first.")
    service = start_in(home)
    ids = []
    for place, body in (("/predict", TRIP), ("/predict/batch", {"trips": [TRIP] * 3})):
        answer = service.client.post(place, json=body, headers={"tripcast-durable": "true"}).json()
        ids += [prediction["prediction_id"] for prediction in answer.get("predictions", [answer])]
    os.kill(service.process.pid, signal.SIGKILL)
    service.process.wait()

    kept = [pq.read_table(file) for place in ("log", "spool") for file in (home.folder / place).rglob("*.parquet")]
    assert sorted(set(pa.concat_tables(kept)["prediction_id"].to_pylist())) == ids


def test_a_spool_that_cannot_be_written_fails_who_waits_for_it_and_is_listed(home, start_in):
    home.registry.promote(home.versions["boosted"], "It is the first.")
    service = start_in(home)
    spool = home.folder / "spool"
    shutil.rmtree(spool)
    spool.write_text("in the way")

    answer = service.client.post("/predict", json=TRIP, headers={"tripcast-durable": "true"})
    assert answer.status_code == 503
    assert "Predictions wait in memory" in answer.json()["error"]
    assert service.predict()["version"] == 1
    assert "Predictions wait in memory" in service.client.get("/readyz").json()["problems"][0]
    spool.unlink()
    assert service.client.post("/predict", json=TRIP, headers={"tripcast-durable": "true"}).status_code == 200
    assert "has been made again" in service.client.get("/model").json()["problems"][0]


def test_a_service_told_to_stop_finishes_its_requests_writes_its_log_and_leaves_no_child(home, start_in):
    home.registry.promote(home.versions["boosted"], "It is the first.")
    service = start_in(home)
    poller = service.poller
    ids = [service.predict()["prediction_id"] for _ in range(10)]
    trips = [TRIP] * 10_000

    def stop_in_the_middle() -> None:
        service.process.send_signal(signal.SIGTERM)

    with httpx.Client(base_url=service.client.base_url, timeout=20) as client:
        request = client.build_request("POST", "/predict/batch", json={"trips": trips})
        body = request.read()

        def in_two_parts():
            yield body[: len(body) // 2]
            stop_in_the_middle()
            yield body[len(body) // 2 :]

        headers = {"content-type": "application/json"}
        answer = client.post("/predict/batch", content=in_two_parts(), headers=headers)
    ids += [prediction["prediction_id"] for prediction in answer.json()["predictions"]]

    assert service.process.wait(20) == 0
    assert not Path(f"/proc/{poller}").exists()
    logged = pq.read_table(service.log).column("prediction_id").to_pylist()
    assert sorted(logged) == sorted(ids)
