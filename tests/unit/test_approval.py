"""A person's yes: a winner waits for it, and what comes of the answer."""

from __future__ import annotations

import json

import mlflow
import pytest
from click.testing import CliRunner

from tripcast.cli import main
from tripcast.errors import InvalidRequest
from tripcast.jobs.deploy import approve, deploy, roll_out
from tripcast.registry.registry import Registry
from tripcast.registry.versions import JUDGED_AGAINST, NOBODY

pytestmark = pytest.mark.slow  # each is a dozen moves in MLflow

WHY = {"by": "Ada", "reason": "The airports are fine."}


@pytest.fixture
def registry(versions):
    """A registry of three versions: the first is the champion, the others were judged against it."""
    client = mlflow.MlflowClient()
    for number in ("1", "2", "3"):
        tags = {JUDGED_AGAINST: "1" if number > "1" else NOBODY, "tripcast.decision": f"Winner {number} is better."}
        for name, value in tags.items():
            client.set_model_version_tag("tripcast-green", number, name, value)
    versions.promote(1, "The first.")
    return versions


@pytest.fixture
def wins(registry, tmp_path):
    """What the training pipeline's last step does of a winner."""

    def wins(number: int, *, approval: bool = True, decision: str = "promoted", trial_share: float = 0.1) -> str:
        file = tmp_path / "decision.json"
        file.write_text(json.dumps({"decision": decision, "approval": approval}))
        return roll_out(registry, number, file, share=1.0, trial_share=trial_share, canary_minutes=0.0)

    return wins


def serving(registry: Registry) -> tuple[int | None, int | None, float]:
    traffic = registry.traffic()
    champion, challenger = (version and version.number for version in (traffic.champion, traffic.challenger))
    return champion, challenger, traffic.share


def record(registry: Registry) -> list[tuple[str, int]]:
    return [(move.action, move.version) for move in registry.moves()]


def test_a_winner_waits_and_people_are_told_once_how_to_answer(registry, wins, channel):
    answers = "tripcast approve 2 --by NAME --why WHY; or tripcast reject 2 --by NAME --why WHY."
    for _ in range(2):  # the second time as a step that is tried again
        assert wins(2) == f"Version 2 waits for a person's approval: {answers}"

    assert serving(registry) == (1, None, 0.0)
    assert record(registry) == [("promote", 1), ("hold", 2)]
    assert registry.approval().waiting.reason == "Winner 2 is better."
    (message,) = channel.messages
    said = json.dumps(message)
    assert "tripcast-green: version 2 waits for a person's approval." in said
    assert "Winner 2 is better. tripcast approve 2" in said


def test_without_approval_a_winner_serves_at_once(registry, wins):
    assert wins(2, approval=False) == "Version 2 answers every rider."
    assert record(registry) == [("promote", 1), ("promote", 2)]


def test_the_first_version_of_all_waits_too(registry, wins):
    registry.remove_champion("As if it had never been.")
    registry.tag(2, JUDGED_AGAINST, NOBODY)
    wins(2)
    assert serving(registry) == (None, None, 0.0)
    assert approve(registry, 2, **WHY, canary_minutes=0.0) == "Version 2 answers every rider."


def test_an_approved_version_serves_and_the_record_says_who_said_so_and_why(registry, wins):
    wins(2)

    assert approve(registry, 2, **WHY, canary_minutes=0.0) == "Version 2 answers every rider."

    assert serving(registry) == (2, None, 0.0)
    *_, answer, promotion = registry.moves()
    assert (answer.action, answer.by, answer.reason) == ("approve", "Ada", "The airports are fine.")
    assert (promotion.action, promotion.version, promotion.reason) == ("promote", 2, "Winner 2 is better.")
    assert registry.approval().waiting is None


def test_approving_twice_changes_nothing_even_after_a_rollback(registry, wins):
    wins(2)
    approve(registry, 2, **WHY, canary_minutes=0.0)
    registry.rollback("It was a mistake.")
    moves = registry.moves()

    assert approve(registry, 2, **WHY, canary_minutes=0.0) == "Version 2 was approved before: nothing changed."
    assert (registry.moves(), serving(registry)) == (moves, (1, None, 0.0))


def test_an_approval_that_was_cut_short_is_carried_out_by_the_next(registry, wins):
    wins(2)
    registry.approve(2, "Ada", "Fine.")  # and then the process dies

    assert wins(2) == "Version 2 answers every rider."
    assert record(registry)[-2:] == [("approve", 2), ("promote", 2)]


def test_a_rejected_version_does_not_serve_nor_ask_again(registry, wins):
    wins(2)
    assert registry.reject(2, "Ada", "Airports are worse.")
    assert not registry.reject(2, "Ada", "Airports are worse.")

    assert wins(2) == "Version 2 was rejected before, see 'tripcast models': what served serves on."
    assert serving(registry) == (1, None, 0.0)
    with pytest.raises(InvalidRequest, match=r"version 2 was rejected by Ada on .*: Airports are worse\."):
        approve(registry, 2, **WHY, canary_minutes=0.0)
    assert record(registry) == [("promote", 1), ("hold", 2), ("reject", 2)]


def test_a_later_winner_waits_in_place_of_the_earlier_one(registry, wins, channel):
    wins(2)
    wins(3)

    assert registry.approval().waiting.version == 3
    assert "It takes the place of version 2, which waited until now." in json.dumps(channel.messages[-1])
    with pytest.raises(InvalidRequest, match="version 2 waits no more: another winner, or another champion"):
        approve(registry, 2, **WHY, canary_minutes=0.0)
    assert approve(registry, 3, **WHY, canary_minutes=0.0) == "Version 3 answers every rider."


def test_a_version_waits_no_more_when_the_champion_has_changed(registry, wins):
    wins(2)
    registry.promote(3, "By hand.")

    assert registry.approval().waiting is None
    with pytest.raises(InvalidRequest, match="version 2 waits no more"):
        approve(registry, 2, **WHY, canary_minutes=0.0)
    with pytest.raises(InvalidRequest, match="version 2 was judged against version 1, and version 3 is the champion"):
        wins(2)


def test_a_version_that_nobody_asked_about_or_that_is_not_there_cannot_be_approved(registry):
    with pytest.raises(InvalidRequest, match="version 3 waits for nobody: no run asked for its approval"):
        registry.approve(3, "Ada", "Fine.")
    with pytest.raises(InvalidRequest, match="has no version 9; its versions: 1, 2, 3"):
        registry.reject(9, "Ada", "Fine.")


def test_an_approved_trial_starts_at_its_share_and_what_became_of_it_stays(registry, wins):
    wins(2, decision="trial")
    assert approve(registry, 2, **WHY, canary_minutes=0.0) == (
        "Version 2 answers 10% of the riders, version 1 the others."
    )
    registry.set_share(0.5, "By hand.")

    assert approve(registry, 2, **WHY, canary_minutes=0.0) == "Version 2 was approved before: nothing changed."
    assert serving(registry) == (1, 2, 0.5)


def test_a_challenger_that_turns_out_proven_waits_for_the_other_riders(registry, wins):
    deploy(registry, 2, 0.1, None)
    wins(2)
    assert serving(registry) == (1, 2, 0.1)
    approve(registry, 2, **WHY, canary_minutes=0.0)
    assert serving(registry) == (2, None, 0.0)


def test_the_command_line_shows_who_waits_and_takes_the_answers(registry, wins, settings, monkeypatch):
    monkeypatch.setenv("TRIPCAST_HOME", str(settings.home))
    wins(2)
    runner = CliRunner()
    assert "(waits)" in runner.invoke(main, ["models"]).stdout
    assert runner.invoke(main, ["approve", "2", "--why", "Fine."]).exit_code == 2  # by whom?

    rejected = runner.invoke(main, ["reject", "2", "--by", "Ada", "--why", "Airports are worse."])
    assert rejected.stdout == "tripcast-green version 2 is rejected.\n"
    wins(3)
    approved = runner.invoke(main, ["approve", "3", "--by", "Ada", "--why", "Airports are fine."])
    assert approved.stdout == "Version 3 answers every rider.\n"
    said = runner.invoke(main, ["models"]).stdout
    assert "Ada: Airports are worse." in said
    assert "Ada: Airports are fine." in said
    assert "(waits)" not in said
    refused = runner.invoke(main, ["approve", "2", "--by", "Ada", "--why", "I changed my mind."])
    assert refused.exit_code == 2
