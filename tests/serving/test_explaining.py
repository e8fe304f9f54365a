"""What the service says beside a prediction: in which way it was asked, why it is so, and what the model is."""

import pytest

from tests.serving.conftest import TRIP

pytestmark = pytest.mark.usefixtures("service")

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def rider_of(service, arm: str) -> str:
    """A rider whom that arm answers."""
    riders = (f"rider-{number}" for number in range(1000))
    return next(rider for rider in riders if service.predict({**TRIP, "rider_id": rider})["arm"] == arm)


@pytest.mark.parametrize(
    ("miles", "way"), [(2.3, "planned"), (None, "zones_only"), (0, "zones_only"), (99, "zones_only")]
)
def test_an_answer_says_in_which_way_it_was_asked(service, miles, way):
    trip = {**TRIP, "trip_distance_miles": miles}
    assert service.predict(trip)["way"] == way
    batch = service.client.post("/predict/batch", json={"trips": [trip, TRIP]}).json()["predictions"]
    assert [answer["way"] for answer in batch] == [way, "planned"]


def test_a_prediction_is_explained_if_that_is_asked(service):
    rider = rider_of(service, "champion")
    plain = service.predict({**TRIP, "rider_id": rider})
    explained = service.predict({**TRIP, "rider_id": rider, "explain": True})
    assert "explanation" not in plain
    assert explained["duration_minutes"] == plain["duration_minutes"]
    assert list(explained["explanation"]) == ["average", "distance", "hour", "pickup_zone", "dropoff_zone"]
    assert sum(explained["explanation"].values()) == pytest.approx(explained["duration_minutes"])


def test_a_model_that_explains_nothing_says_so(service):
    rider = rider_of(service, "challenger")
    assert service.predict({**TRIP, "rider_id": rider, "explain": True})["explanation"] is None


def test_batches_are_not_explained(service):
    refused = service.client.post("/predict/batch", json={"trips": [{**TRIP, "explain": True}]})
    assert refused.status_code == 422
    assert refused.json()["field"] == "trips[0].explain"


def test_the_model_is_a_page_for_people_and_json_for_programs(service):
    page = service.client.get("/model", headers=HTML)
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == "<!DOCTYPE html><p>The card of the boosted model.</p>"
    assert "script-src" not in page.headers["content-security-policy"]
    for headers in ({}, {"accept": "application/json"}):
        answer = service.client.get("/model", headers=headers)
        assert answer.json()["champion"]["version"] == 1
        assert answer.headers["vary"] == "accept"


def test_a_simulated_model_is_told_from_a_real_one(service):
    model = service.client.get("/model").json()
    assert (model["champion"]["simulated"], model["challenger"]["simulated"]) == (True, False)
