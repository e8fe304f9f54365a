"""The monitoring report, on months that the library itself judged, compared and decided on."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import make_trips
from tests.unit.test_reports import HOSTILE, Page, check_self_contained, parsed
from tripcast.evaluation.confidence import Measure
from tripcast.jobs.judge import score
from tripcast.jobs.train import train
from tripcast.monitoring.drift import Drift, compare
from tripcast.monitoring.quality import Expectation, JoinCounts, Quality, measure
from tripcast.monitoring.rule import Incident, Rule, WindowResult, decide
from tripcast.monitoring.trial import Trial
from tripcast.reports.monitoring import (
    MonitoringContext,
    monitoring_report,
    monitoring_summary,
    rule_sentences,
)
from tripcast.taxi.bins import profile_trips
from tripcast.taxi.trips import Trips
from tripcast.taxi.ways import WAYS
from tripcast.taxi.zones import ZONES


@dataclass(frozen=True)
class Window:
    """A month as monitoring sees it."""

    quality: tuple[Quality, ...]
    drift: Drift
    result: WindowResult


def month_of_trips(month, *, slower=1.0, moved=False):
    """A month of 3,000 trips; in a moved one East Harlem North has no trips, and Astoria and Astoria Park do."""
    start, seed = np.datetime64(month, "us"), int(month[-2:])
    trips = make_trips(seed=seed)
    zones = trips.pickup_zone, trips.dropoff_zone
    if moved:
        zones = tuple(np.where(zone == 74, np.where(trips.trip_distance_miles < 3, 7, 8), zone) for zone in zones)
    return Trips(
        start + (trips.pickup_datetime - np.datetime64("2021-01-01", "us")) * 0.9,
        *(zone.astype(np.int16) for zone in zones),
        trips.trip_distance_miles,
        np.clip(trips.duration_minutes * slower, 1, 60),
    )


TRIAL = Trial(4, 3, 3_000, Measure(-0.125, -0.5, 0.25), "withdraw", "Version 4 is withdrawn: it is no better.")

PLACES = {zone.number: f"{zone.name}, {zone.borough}" for zone in ZONES}


@pytest.fixture(scope="module")
def city():
    """A city that is fine in February 2021, broken in March, missing in April, slower and moved in May and June."""
    learned = month_of_trips("2021-01")
    model = train("linear", learned, taxi="green", data={"2021-01": "1" * 64})
    tested = score(model, learned, version=3)
    expected = {3: dict.fromkeys(WAYS, Expectation.of(tested))}
    reference = profile_trips([learned], [tested["predicted_minutes"].to_numpy()])

    def watch(month, **changed):
        trips = month_of_trips(month, **changed)
        rows = score(model, trips, version=3)
        tried = score(model, trips[:300], version=4, arm="challenger")
        quality = measure(pa.concat_tables([rows, tried]), expected)
        drift = compare(reference, profile_trips([trips], [rows["predicted_minutes"].to_numpy()]))
        champion = quality[0]
        result = WindowResult(
            month,
            3,
            champion.expected_rmse,
            champion.rmse,
            champion.interval_coverage,
            drift.psi,
            drift.volume_ratio,
        )
        return Window(quality, drift, result)

    return {
        "2021-02": watch("2021-02"),
        "2021-03": Window((), None, WindowResult("2021-03", 3, data_problem="2021-03 has too many bad rows.")),
        "2021-05": watch("2021-05", slower=1.4, moved=True),
        "2021-06": watch("2021-06", slower=1.4, moved=True),
    }


def context_of(city, month, **changed):
    history = [window.result for key, window in city.items() if key <= month]
    return MonitoringContext(
        subject="green taxi",
        location="a folder",
        created="2021-07-01 04:05 UTC",
        decision=decide(history),
        history=history,
        quality=city[month].quality,
        drift=city[month].drift,
        **changed,
        places=PLACES,
    )


@pytest.fixture(scope="module")
def bad(city):
    """The month that calls for retraining, with all there is to say."""
    context = context_of(
        city,
        "2021-06",
        joined=JoinCounts(judged=3000, unjudged=1234, unknown=17, ambiguous=2, out_of_bounds=31),
        trial=TRIAL,
        alerts=["The webhook has taken the alert."],
        run_url="https://mlflow.example/#/runs/1",
    )
    text = monitoring_report(context)
    return context, text, Page(text)


def figures(page):
    """The pictures with captions, and the small ones in the table."""
    drawings = list(map(parsed, page.drawings))
    small = [drawing for drawing in drawings if drawing.attrib["aria-label"].startswith("PSI of")]
    return [drawing for drawing in drawings if drawing not in small], small


def test_the_decision_and_what_happens_next_stand_at_the_top(bad):
    context, text, page = bad
    assert context.decision.action == "retrain"
    assert f"<h1>{context.decision.reason}</h1>" in text
    assert page.text.index("a candidate is trained") < page.text.index(context.decision.reason) < page.text.index("Why")
    assert context.next_step in page.text


def test_every_incident_is_there_since_it_began_and_so_are_the_alerts(bad):
    context, _, page = bad
    assert {incident.kind for incident in context.decision.incidents} == {"error", "drift", "coverage"}
    for incident in context.decision.incidents:
        assert f"! {incident.kind} {incident.sentence} Since 2021-05." in page.text
    assert "told The webhook has taken the alert." in page.text


def test_the_months_that_counted_are_there_with_their_ratios(bad):
    context, _, page = bad
    may, june = context.decision.evidence[-2:]
    assert f"2021-05 {may.rmse_ratio:.3f} (bad) , 2021-06 {june.rmse_ratio:.3f} (bad) ." in page.text
    assert re.search(r"2021-02 \d\.\d{3} ,", page.text)


def test_every_version_and_arm_has_its_figures(bad):
    context, _, page = bad
    assert [(part.version, part.arm) for part in context.quality] == [(3, "champion"), (4, "challenger")]
    for part in context.quality:
        known = part.expected_rmse is not None
        row = (
            f" version {part.version} {part.arm} {part.trips:,} {part.days} "
            f"{part.rmse.value:.2f} {part.rmse.low:.2f} to {part.rmse.high:.2f} "
            + (
                f"{part.expected_rmse:.2f} {part.rmse.value / part.expected_rmse:.3f} "
                if known
                else "\N{EN DASH} \N{EN DASH} "
            )
            + f"{part.mae.value:.2f} {part.mae.low:.2f} to {part.mae.high:.2f} "
            f"{part.bias.value:+.2f} {part.bias.low:+.2f} to {part.bias.high:+.2f} "
            f"{part.interval_coverage.value * 100:.1f} "
        )
        assert row.replace("-", "\N{MINUS SIGN}") in page.text


def test_how_the_truth_was_joined_is_told_in_figures(bad, city):
    counts = JoinCounts(judged=0, unjudged=55, unknown=3000, ambiguous=0, out_of_bounds=0)
    unmatched = replace(context_of(city, "2021-02", joined=counts), quality=())
    for text, figures in (
        (bad[2].text, ("3,000 were judged; 1,234 have", "17 true durations", "were 2 whose", "31 that")),
        (Page(monitoring_report(unmatched)).text, ("0 were judged; 55 have", "3,000 true durations")),
    ):
        assert all(figure in text for figure in figures)


def test_the_challenger_s_judgement_is_told_with_its_difference(bad):
    page = bad[2]
    assert "Version 4 is withdrawn: it is no better." in page.text
    assert "−0.125 −0.500 to +0.250 minutes; below zero the challenger is better." in page.text  # noqa: RUF001


def test_features_that_have_shifted_come_first(bad):
    context, _, page = bad
    text = page.text[page.text.index("PSI by month") :]
    shifted = sorted(
        (part for part in context.drift.features if part.psi > max(part.psi_chance, 0.2)), key=lambda part: -part.psi
    )
    assert {part.feature for part in shifted} == {"pickup_zone", "dropoff_zone"}
    names = {"pickup_zone": "pickup zone", "dropoff_zone": "dropoff zone"}
    rows = [text.index(f"{names[part.feature]} ! shifted {part.psi:.3f} {part.psi_chance:.3f}") for part in shifted]
    assert rows == sorted(rows)
    assert rows[-1] < text.index("as by chance")
    (distance,) = (part for part in context.drift.features if part.feature == "trip_distance_miles")
    assert re.search(rf"trip distance miles .{{5,12}} {distance.psi:.3f} {distance.psi_chance:.3f} .*", text)
    assert f"{distance.missing_share:.1%}" in text


def test_zones_that_came_and_went_are_named(bad):
    context, _, page = bad
    ends = context.drift.new_places
    assert set(ends) == {7, 8}
    assert context.drift.gone_places == (74,)
    assert f"Astoria, Queens {ends[7]:,} Astoria Park, Queens {ends[8]:,}" in page.text
    assert "East Harlem North, Manhattan" in page.text


def test_many_new_places_are_counted_from_the_eleventh_on(bad):
    context = bad[0]
    drift = replace(context.drift, new_places=dict.fromkeys(range(100, 115), 5))
    page = Page(monitoring_report(replace(context, drift=drift)))
    assert "Garment District, Manhattan 5" in page.text
    assert "and 5 more" in page.text


def test_volume_is_told_beside_that_of_training(bad):
    context, _, page = bad
    assert f"Trips on a usual day {context.drift.trips_per_day:,.0f}" in page.text
    assert f"{context.drift.volume_ratio:.0%} of the training months'" in page.text


def test_the_rule_is_written_out_with_its_thresholds(bad):
    assert all(sentence in bad[2].text for sentence in rule_sentences(bad[0].decision.rule))
    rule = Rule(
        k=3, n=5, cool_down=2, max_rmse_ratio=1.25, psi_alert=0.3, coverage_tolerance=0.05, min_volume_ratio=0.4
    )
    said = " ".join(rule_sentences(rule))
    for threshold in ("1.25 times", "3 of the last 5", "the 2 months before", "above 0.3", "75%", "85%", "40%"):
        assert threshold in said


def test_what_the_last_promotion_has_saved_is_told(bad):
    saved = "On the same 3,000 trips, its promotion saves 4.0%."
    context = replace(bad[0], saved=saved)
    assert f"What the loop has saved {saved}" in Page(monitoring_report(context)).text
    assert f"**What the loop has saved**: {saved}" in monitoring_summary(context)
    assert "What the loop has saved" not in bad[2].text


def test_pictures_show_every_month_and_what_happened_in_it(bad):
    context, _, page = bad
    large, small = figures(page)
    error, coverage, days = large
    assert error.attrib["aria-label"] == "RMSE of the champion by month, in minutes: " + "; ".join(
        f"{window.key} {window.rmse.value:.2f}, expected {window.expected_rmse:.2f}"
        for window in context.history
        if window.rmse
    )
    texts = "".join(error.itertext())
    for part in ("champion", "version 3", "retraining started", "data broken", "Feb", "2021", "Jun", "⋯"):
        assert part in texts
    assert [drawing.attrib["aria-label"].split(":")[0] for drawing in (coverage, days)] == [
        "Interval coverage of the champion by month",
        "Trips by day of 2021-06",
    ]
    assert len(small) == 6
    psi = [f"{window.psi['pickup_zone']:.2f}" for window in context.history if window.psi]
    labels = [drawing.attrib["aria-label"] for drawing in small]
    assert f"PSI of the pickup zone by month: {', '.join(psi)}" in labels


def test_a_broken_month_tells_the_problem_and_judges_nothing(city):
    context = context_of(city, "2021-03")
    page = Page(monitoring_report(context))
    assert "The data of 2021-03 is broken, so no model is judged by it or learns from it." in page.text
    assert "! data 2021-03 has too many bad rows. Since 2021-03." in page.text
    assert "A person has to mend 2021-03 at its source" in page.text
    assert not {"Quality by version", "Drift", "Challenger"} & set(
        re.findall(r"<h2>(\w[\w ]*)", monitoring_report(context))
    )
    assert len(page.drawings) == 2  # of the months before


def test_a_first_month_that_is_broken_has_no_pictures():
    history = [WindowResult("2021-03", 3, data_problem="2021-03 is empty.")]
    context = MonitoringContext("green taxi", "a folder", "now", decide(history), history)
    assert Page(monitoring_report(context)).drawings == []


def test_a_good_month_without_a_log_has_no_incident_and_trains_a_candidate(city):
    page = Page(monitoring_report(context_of(city, "2021-02")))
    for part in ("a candidate is trained", "There is none in 2021-02.", "No predictions were logged"):
        assert part in page.text


def test_a_month_whose_truth_is_not_known_yet_is_reported_by_its_drift(city):
    result = replace(city["2021-02"].result, rmse=None, expected_rmse=None, interval_coverage=None)
    context = MonitoringContext(
        "green taxi", "a folder", "now", decide([result]), [result], drift=city["2021-02"].drift
    )
    page = Page(monitoring_report(context))
    assert "The error of 2021-02 cannot be judged." in page.text
    assert "Trips on a usual day" in page.text
    assert "Quality by version" not in page.text


def test_one_day_without_an_interval_is_reported(city):
    window = city["2021-02"]
    lone = Measure(5.0, None, None)
    quality = [replace(window.quality[0], rmse=lone, mae=lone, bias=lone, interval_coverage=Measure(0.8, None, None))]
    result = replace(window.result, rmse=lone, interval_coverage=Measure(0.8, None, None))
    context = MonitoringContext("green taxi", "a folder", "now", decide([result]), [result], quality, window.drift)
    assert "5.00" in Page(monitoring_report(context)).text
    assert "5.00 (one day only)" in monitoring_summary(context)


def test_pictures_reach_back_two_years_and_no_further():
    history = [
        WindowResult(f"{year}-{month:02d}", 1, 5.0, Measure(5.0, 4.9, 5.1), Measure(0.8, 0.79, 0.81))
        for year in (2021, 2022, 2023)
        for month in range(1, 13)
    ]
    page = Page(monitoring_report(MonitoringContext("green taxi", "a folder", "now", decide(history), history)))
    assert "2021-12" not in page.drawings[0]
    assert "2022-01 5.00" in page.drawings[0]


def test_the_page_links_to_the_time_series(bad):
    links = [attributes["href"] for tag, attributes in bad[2].elements if tag == "a"]
    assert links == ["https://mlflow.example/#/runs/1"]


def test_the_page_asks_for_nothing_from_outside(bad):
    check_self_contained(*bad[1:], most_bytes=1_000_000)


@pytest.fixture
def hostile(bad):
    context = bad[0]
    decision = replace(context.decision, reason=HOSTILE, incidents=(Incident("error", "2021-05", HOSTILE),))
    return replace(
        context,
        subject=HOSTILE,
        location=HOSTILE,
        created=HOSTILE,
        decision=decision,
        trial=replace(TRIAL, reason=HOSTILE),
        alerts=[HOSTILE],
        run_url="javascript:alert(1)",
        quality=[replace(context.quality[0], arm=HOSTILE)],
    )


def test_what_comes_from_outside_is_text_and_nothing_else(hostile):
    page = Page(monitoring_report(hostile))
    assert page.text.count(HOSTILE) >= 6
    assert not [tag for tag, attributes in page.elements if tag in {"img", "a"} or "onerror" in attributes]


def test_the_summary_s_table_survives_hostile_text(hostile):
    summary = monitoring_summary(hostile)
    assert "<img" not in summary
    rows = [line for line in summary.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


def test_the_summary_has_the_decision_the_incidents_and_the_table(bad):
    context = bad[0]
    lines = monitoring_summary(context).splitlines()
    part = context.quality[0]
    assert lines[0] == f"## {context.decision.reason}"
    assert lines[2].startswith("**A candidate is trained**, green taxi, 2021-06. Version 3 goes on serving while")
    error = context.decision.incidents[0]
    assert f"- **error** since 2021-05: {error.sentence}" in lines
    assert (
        f"| 3, champion | 3,000 | {part.rmse.value:.2f} ({part.rmse.low:.2f} to {part.rmse.high:.2f}) | "
        f"{part.expected_rmse:.2f} | {part.rmse.value / part.expected_rmse:.3f} | {part.mae.value:.2f} | "
        f"{part.bias.value:+.2f} | {part.interval_coverage.value:.1%} |"
    ) in lines
    assert "**Challenger**: Version 4 is withdrawn: it is no better." in lines
    (shifted,) = (line for line in lines if line.startswith("Features that have shifted"))
    assert "pickup zone" in shifted
    assert len(lines) < 25


def test_the_summary_of_a_broken_month_is_the_problem(city):
    summary = monitoring_summary(context_of(city, "2021-03"))
    assert "- **data** since 2021-03: 2021-03 has too many bad rows." in summary
    assert "|" not in summary
