"""Other models take over while the service answers, and those that cannot serve do not."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.parts import wait_for
from tests.serving.conftest import LONG_TRIP, TRIP, Answering

SWAPS = 'tripcast_swaps_total{model="tripcast-green"}'


@contextmanager
def requests_without_pause(service: Answering) -> Iterator[Counter]:
    """Four clients that ask for predictions all the time; counts the answers by status and version."""
    answers: Counter = Counter()
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=20) as client:
            while not done.is_set():
                try:
                    answer = client.post("/predict", json=TRIP)
                    answers[answer.status_code, answer.json().get("version")] += 1
                except httpx.HTTPError as failure:
                    answers[repr(failure), None] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: bool(answers))  # a client takes its time to begin
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_twenty_swaps_under_load_fail_no_request(fresh):
    home, service = fresh
    swaps = service.metric(SWAPS)

    with requests_without_pause(service) as answers:
        for turn in range(20):
            version = (2, 1)[turn % 2]
            home.client.set_registered_model_alias("tripcast-green", "champion", str(version))
            assert service.reload()["champion"]["version"] == version

    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {1, 2}
    assert service.metric(SWAPS) == swaps + 20


def test_a_promotion_is_taken_up_without_being_asked(fresh):
    home, service = fresh
    home.registry.promote(2, "Better.")

    wait_for(lambda: service.predict()["version"] == 2)


def test_a_challenger_joins_takes_more_riders_and_leaves(fresh):
    home, service = fresh
    trips = [{**TRIP, "rider_id": f"rider-{number}"} for number in range(300)]

    def challenged() -> set[str]:
        service.reload()
        answers = service.client.post("/predict/batch", json={"trips": trips}).json()["predictions"]
        pairs = zip(trips, answers, strict=True)
        return {trip["rider_id"] for trip, answer in pairs if (answer["arm"], answer["version"]) == ("challenger", 2)}

    home.registry.challenger(2, 0.2, "To compare.")
    some = challenged()
    home.registry.set_share(0.6, "It does well.")
    more = challenged()
    home.registry.withdraw("Enough seen.")

    assert 0 < len(some) < len(more) < 300
    assert some < more
    assert challenged() == set()


def test_a_challenger_that_becomes_champion_takes_over_everyone(fresh):
    home, service = fresh
    home.registry.challenger(2, 0.2, "To compare.")
    service.reload()
    home.registry.promote(2, "It won.")
    said = service.reload()

    assert (said["champion"]["version"], said["challenger"], said["share"]) == (2, None, 0.0)


@pytest.mark.parametrize("kind", ["damaged", "malformed", "never finite"])
def test_a_champion_that_cannot_serve_never_does(fresh, kind):
    home, service = fresh
    broken = home.versions[kind]

    with requests_without_pause(service) as answers:
        home.registry.promote(broken, "By mistake.")
        said = service.reload()

    assert said["champion"]["version"] == 1
    assert len(said["problems"]) == 1
    assert f"ersion {broken}" in said["problems"][0]
    assert service.client.get("/readyz").json() == {
        "ready": True,
        "versions": {"tripcast-green": 1},
        "problems": said["problems"],
    }
    assert set(answers) == {(200, 1)}
    refused = service.metric(f'tripcast_refused_versions_total{{model="tripcast-green",version="{broken}"}}')
    assert refused + service.metric('tripcast_poller_failures_total{model="tripcast-green"}') >= 1
    assert said["problems"][0] in service.output.read_text()


@pytest.mark.parametrize("kind", ["damaged", "malformed", "never finite"])
def test_a_challenger_that_cannot_serve_leaves_its_riders_to_the_champion(fresh, kind):
    home, service = fresh
    home.registry.challenger(home.versions[kind], 1.0, "By mistake.")
    said = service.reload()

    assert (said["champion"]["version"], said["challenger"]) == (1, None)
    assert len(said["problems"]) == 1
    assert service.predict()["arm"] == "champion"


def test_the_champion_answers_where_the_challenger_fails(fresh):
    home, service = fresh
    version = home.versions["finite on short trips only"]
    home.registry.challenger(version, 1.0, "It seems well.")
    service.reload()
    failures = f'tripcast_challenger_failures_total{{model="tripcast-green",version="{version}"}}'

    assert service.predict(TRIP)["version"] == version
    assert service.metric(failures) == 0
    assert service.predict(LONG_TRIP)["version"] == 1
    assert service.metric(failures) == 1
    batch = service.client.post("/predict/batch", json={"trips": [TRIP, LONG_TRIP]}).json()["predictions"]
    assert {answer["version"] for answer in batch} == {1}
    assert service.metric(failures) == 2
    day = {"pickup_zone": 74, "dropoff_zone": 236, "date": "2021-01-20"}
    curves = [service.client.get("/explore", params={**day, "miles": miles}).json()["arms"] for miles in (2.3, 90)]
    assert [list(arms) for arms in curves] == [["champion", "challenger"], ["champion"]]


def test_tags_that_hold_no_number_break_nothing(fresh):
    home, service = fresh
    for name, value in (("rmse", "good"), ("notebook_rmse", "nan"), ("test_month", "soon")):
        home.client.set_model_version_tag("tripcast-green", "1", f"tripcast.{name}", value)
    try:
        champion = service.reload()["champion"]
        assert (champion["metrics"], champion["test_month"]) == ({}, "soon")
        assert service.client.get("/model").json()["champion"] == champion
    finally:
        for name, value in (("rmse", "5.19"), ("notebook_rmse", "7.76"), ("test_month", "2021-02")):
            home.client.set_model_version_tag("tripcast-green", "1", f"tripcast.{name}", value)


def test_a_champion_that_is_gone_from_the_registry_goes_on_serving(fresh):
    home, service = fresh
    home.client.delete_registered_model_alias("tripcast-green", "champion")
    said = service.reload()

    assert said["champion"]["version"] == 1
    assert "has no champion" in said["problems"][0]
