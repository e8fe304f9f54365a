"""Deploying: a version is rolled out and the real service takes it up, or everything is as it was before."""

import pytest

from tripcast.errors import DeploymentError, InvalidRequest
from tripcast.jobs import canary
from tripcast.jobs.deploy import deploy

NOBODY = "http://127.0.0.1:9"


def test_the_service_answers_by_the_version_when_it_has_been_deployed(fresh):
    home, service = fresh
    version = home.versions["linear"]

    sentence = deploy(home.registry, version, 1.0, str(service.client.base_url))

    assert sentence == f"Version {version} answers every rider."
    assert service.predict()["version"] == version
    assert home.registry.moves()[-1].action == "promote"


def test_a_share_of_the_riders_is_answered_by_a_challenger(fresh):
    home, service = fresh
    version = home.versions["linear"]

    sentence = deploy(home.registry, version, 0.25, str(service.client.base_url))

    assert sentence == f"Version {version} answers 25% of the riders, version 1 the others."
    said = service.client.get("/model").json()
    assert (said["champion"]["version"], said["challenger"]["version"], said["share"]) == (1, version, 0.25)


def test_deploying_again_changes_nothing(fresh):
    home, service = fresh
    for share in (0.25, 1.0):
        deploy(home.registry, home.versions["linear"], share, str(service.client.base_url))
        moves = home.registry.moves()

        deploy(home.registry, home.versions["linear"], share, str(service.client.base_url))

        assert home.registry.moves() == moves


def test_a_canary_answers_a_few_riders_and_then_everyone(fresh):
    home, service = fresh
    version = home.versions["linear"]

    deploy(home.registry, version, 1.0, str(service.client.base_url), canary_minutes=0.02)

    assert service.predict()["version"] == version
    moves = [(move.action, move.version, move.share) for move in home.registry.moves()]
    assert moves[-2:] == [("challenge", version, 0.05), ("promote", version, None)]
    assert home.registry.traffic().challenger is None


def test_a_canary_with_which_the_service_is_not_well_is_taken_back(fresh, monkeypatch):
    """Both predict well; whoever asks for more likeness than there is gets none."""
    monkeypatch.setattr(canary, "_SANE", (0.999, 1.001))
    home, service = fresh
    version, before = home.versions["linear"], len(home.registry.moves())

    with pytest.raises(DeploymentError, match=r"was not well with tripcast-green version \d+ as a canary: .* predicts"):
        deploy(home.registry, version, 1.0, str(service.client.base_url), canary_minutes=0.5)

    traffic = home.registry.traffic()
    assert (traffic.champion.number, traffic.challenger) == (1, None)
    assert ("promote", version) not in [(move.action, move.version) for move in home.registry.moves()[before:]]


def test_a_version_that_the_service_refuses_is_taken_back(fresh):
    home, service = fresh
    home.registry.challenger(home.versions["never finite"], 0.1, "By mistake.")
    assert "predicts nan minutes" in service.reload()["problems"][0]  # it is tried before the seconds are counted
    home.registry.challenger(home.versions["linear"], 0.1, "On trial.")

    with pytest.raises(
        DeploymentError, match=r"did not take up tripcast-green version \d+ within 20 seconds: .*predicts nan minutes"
    ):
        deploy(home.registry, home.versions["never finite"], 1.0, str(service.client.base_url), patience=20)

    traffic = home.registry.traffic()
    assert traffic.champion.number == 1
    assert (traffic.challenger.number, traffic.share) == (home.versions["linear"], 0.1)
    assert "was never served" in home.registry.moves()[-1].reason
    assert service.predict()["version"] in (1, home.versions["linear"])


def test_a_challenger_that_the_service_refuses_is_taken_back(fresh):
    home, service = fresh

    with pytest.raises(DeploymentError, match="What served before does so again"):
        deploy(home.registry, home.versions["damaged"], 0.5, str(service.client.base_url), patience=5)

    assert home.registry.traffic().champion.number == 1
    assert home.registry.traffic().challenger is None


def test_a_service_that_is_not_there_is_named_and_the_first_champion_deposed(home):
    with pytest.raises(DeploymentError, match=f"The service at {NOBODY} did not take up .*it does not answer"):
        deploy(home.registry, home.versions["boosted"], 1.0, NOBODY, patience=0)

    assert home.registry.traffic().champion is None
    assert [move.action for move in home.registry.moves()] == ["promote", "depose"]


class Killed(BaseException):
    """The process ends here."""


def kill_while_waiting(home, version: int, share: float) -> None:
    def end(seconds: float) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tripcast.jobs.deploy.time.sleep", end)
        with pytest.raises(Killed):
            deploy(home.registry, version, share, NOBODY)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_deployment_that_was_killed_and_is_tried_again_restores_what_served_before_both(home, share):
    deploy(home.registry, home.versions["boosted"], 1.0, None)
    deploy(home.registry, home.versions["linear"], 0.1, None)
    kill_while_waiting(home, home.versions["damaged"], share)

    with pytest.raises(DeploymentError, match="What served before does so again"):
        deploy(home.registry, home.versions["damaged"], share, NOBODY, patience=0)

    traffic = home.registry.traffic()
    assert traffic.champion.number == home.versions["boosted"]
    assert (traffic.challenger.number, traffic.share) == (home.versions["linear"], 0.1)


def test_a_champion_stays_when_it_is_deployed_again_and_nobody_answers(home):
    deploy(home.registry, home.versions["boosted"], 1.0, None)
    deploy(home.registry, home.versions["linear"], 1.0, None)

    with pytest.raises(DeploymentError, match="It stays the champion, as it was"):
        deploy(home.registry, home.versions["linear"], 1.0, NOBODY, patience=0)

    assert home.registry.traffic().champion.number == home.versions["linear"]


def test_a_deployment_that_was_killed_long_ago_is_not_taken_up_again(home):
    deploy(home.registry, home.versions["boosted"], 1.0, None)
    kill_while_waiting(home, home.versions["damaged"], 1.0)
    deploy(home.registry, home.versions["linear"], 1.0, None)

    with pytest.raises(DeploymentError):
        deploy(home.registry, home.versions["damaged"], 1.0, NOBODY, patience=0)

    assert home.registry.traffic().champion.number == home.versions["linear"]


def test_where_there_is_no_service_nothing_is_waited_for(home):
    assert deploy(home.registry, home.versions["boosted"], 0.1, None) == "Version 1 answers every rider."
    assert home.registry.traffic().champion.number == 1


def test_a_version_that_is_not_there_is_named(home):
    with pytest.raises(InvalidRequest, match="has no version 99"):
        deploy(home.registry, 99, 1.0, None)
