"""`tripcast schedule`: one recurring run of a name, however often it is called."""

import pytest


def test_monitoring_recurs_weekly_by_default(cluster, tripcast):
    result = tripcast("schedule")

    (recurring,) = cluster.recurring_runs
    assert result.exit_code == 0, result.stderr
    assert recurring["display_name"] == "monitoring green"
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 0 6 * * 1"}}
    assert recurring["mode"] == "ENABLE"
    assert recurring["no_catchup"] is True
    assert recurring["max_concurrency"] == "1"
    assert recurring["runtime_config"]["parameters"]["taxi"] == "green"
    assert recurring["pipeline_version_reference"]["pipeline_version_id"] == cluster.versions[0]["pipeline_version_id"]
    assert cluster.pipelines[0]["name"] == "tripcast-monitoring"
    assert recurring["experiment_id"] == cluster.experiments[0]["experiment_id"]
    assert "'monitoring green' recurs now, at '0 0 6 * * 1' UTC" in result.stdout


def test_scheduling_twice_leaves_what_is_there(cluster, tripcast):
    tripcast("schedule")
    before = list(cluster.recurring_runs)

    result = tripcast("schedule")

    assert cluster.recurring_runs == before
    assert "recurred like this already" in result.stdout


@pytest.mark.parametrize("change", [("--cron", "0 6 2 * *"), ("-p", "source=s3://trips"), ("--image", "elsewhere:7")])
def test_what_has_changed_takes_the_place_of_what_was(cluster, tripcast, change):
    tripcast("schedule")
    before = cluster.recurring_runs[0]["recurring_run_id"]

    result = tripcast("schedule", *change)

    (recurring,) = cluster.recurring_runs
    assert result.exit_code == 0, result.stderr
    assert recurring["recurring_run_id"] != before
    # Kubernetes would end the runs of what is deleted, if it was not told to leave them.
    assert cluster.deleted_with == ["ORPHAN"]


def test_a_new_commit_is_what_recurs_from_then_on(cluster, tripcast, monkeypatch):
    tripcast("schedule")
    monkeypatch.setenv("TRIPCAST_COMMIT", "beef" * 10)

    tripcast("schedule")

    (recurring,) = cluster.recurring_runs
    version = recurring["pipeline_version_reference"]["pipeline_version_id"]
    assert version == cluster.versions[-1]["pipeline_version_id"]
    assert cluster.versions[-1]["name"].startswith("beefbeefbeef-")


def test_a_failure_half_way_is_put_right_by_the_next_call(cluster, tripcast):
    tripcast("schedule")
    cluster.fail("DELETE /apis/v2beta1/recurringruns")
    assert tripcast("schedule", "--cron", "0 6 2 * *").exit_code == 1
    assert len(cluster.recurring_runs) == 2

    result = tripcast("schedule", "--cron", "0 6 2 * *")

    assert result.exit_code == 0
    assert [run["trigger"]["cron_schedule"]["cron"] for run in cluster.recurring_runs] == ["0 0 6 2 * *"]


def test_names_and_taxis_recur_side_by_side(cluster, tripcast):
    tripcast("schedule")
    tripcast("schedule", "-p", "taxi=yellow")
    tripcast("schedule", "--name", "watch at night", "--cron", "30 0 2 * * *")
    tripcast("schedule", "scoring", "--cron", "@monthly")

    names = [run["display_name"] for run in cluster.recurring_runs]
    assert names == ["monitoring green", "monitoring yellow", "watch at night", "scoring green"]
    assert cluster.recurring_runs[2]["trigger"]["cron_schedule"]["cron"] == "30 0 2 * * *"
    assert cluster.recurring_runs[3]["trigger"]["cron_schedule"]["cron"] == "@monthly"


def test_it_can_be_taken_back(cluster, tripcast):
    tripcast("schedule")
    tripcast("schedule", "-p", "taxi=yellow")

    result = tripcast("schedule", "--off")
    again = tripcast("schedule", "--off")

    assert [run["display_name"] for run in cluster.recurring_runs] == ["monitoring yellow"]
    assert "'monitoring green' does not recur any more." in result.stdout
    assert "'monitoring green' did not recur: nothing changed." in again.stdout
    assert again.exit_code == 0


def test_a_switched_off_one_is_switched_on_by_scheduling_it(cluster, tripcast):
    tripcast("schedule")
    cluster.recurring_runs[0] |= {"status": "DISABLED", "mode": "DISABLE"}  # as the pages' switch does

    tripcast("schedule")

    assert [run["status"] for run in cluster.recurring_runs] == ["ENABLED"]


@pytest.mark.parametrize("cron", ["6 * *", "", "every monday"])
def test_what_is_no_schedule_is_refused_before_anything_is_asked(cluster, tripcast, cron):
    result = tripcast("schedule", "--cron", cron)

    assert result.exit_code == 2
    assert "is no schedule: write five fields" in result.stderr
    assert cluster.seen == []


def test_a_schedule_that_the_server_cannot_read_is_said_in_its_words(cluster, tripcast):
    result = tripcast("schedule", "--cron", "0 6 L! * *")

    assert result.exit_code == 1
    assert "(HTTP 400): Schedule cron is not a supported format" in result.stderr
    assert cluster.recurring_runs == []
