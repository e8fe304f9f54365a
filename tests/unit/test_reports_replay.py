"""The replay page: what it says of months that went well, badly, or not at all."""

import re
from dataclasses import replace

import pytest

from tests.unit.test_reports import HOSTILE, Page, check_self_contained, parsed
from tripcast.errors import InvalidRequest
from tripcast.monitoring.replay import Event, Replay, ReplayMonth
from tripcast.monitoring.rule import Rule
from tripcast.reports.monitoring import rule_sentences
from tripcast.reports.replay import replay_page


def month(
    key, system=5.0, once=5.0, notebook=7.0, *events, anew=5.0, version=1, challenger=None, share=0.0, trips=1000
):
    happened = [Event(*each) for each in events]
    return ReplayMonth(key, system, once, anew, notebook, version, challenger, share, trips, happened)


STORY = Replay(
    subject="green taxi",
    source="a folder",
    train_months=["2021-01", "2021-02"],
    test_month="2021-03",
    rollout_share=0.1,
    rule=Rule(),
    months=[
        month("2021-04"),
        month("2021-05", 6.0, 6.0, 8.0, ("alert", "RMSE of version 1 is too high."), trips=3000),
        month("2021-06", 6.0, 6.0, 8.0, ("challenge", "Version 2 is tried.")),
        month("2021-07", None, None, None, ("data", "2021-07 is broken."), anew=None, challenger=2, share=0.1, trips=0),
        month("2022-01", 5.0, 6.5, None, ("promote", "Version 2 is better."), version=2),
        month("2022-02", 4.8, 6.0, 8.5, ("refuse", "No candidate is better."), version=2),
    ],
    published_after=2,
    processor_seconds=123.4,
)


@pytest.fixture(scope="module")
def story():
    text = replay_page(STORY)
    return text, Page(text)


def ending(system, once, anew):
    return replace(STORY, months=[month("2021-04", system, once, anew=anew)]).headline


def test_the_headline_says_how_the_system_did_beside_the_others(story):
    # Squares of 5, 6, 6, 5, 4.8 at 1, 3, 1, 1, 1 thousand trips; of 5, 6, 6, 6.5, 6; and of 5.
    assert STORY.headline == (
        "The system's RMSE is 5.57 minutes, 6.3% below that of the model trained once (5.94); regret over the model "
        "trained anew each month (5.00) is +11.4%."
    )
    assert STORY.regret == pytest.approx(5.5683 / 5 - 1, abs=1e-4)
    assert f"<h1>{STORY.headline}</h1>" in story[0].replace("&#39;", "'")


def test_the_headline_admits_a_loss_and_makes_no_gain_of_a_trifle():
    assert "6.00 minutes, 20.0% above that of the model trained once (5.00)" in ending(6.0, 5.0, 5.0)
    assert "5.00 minutes, as good as that of the model trained once (5.02)" in ending(5.0, 5.02, 5.0)


def test_what_is_better_than_the_model_trained_anew_has_no_regret():
    assert ending(4.9, 5.0, 5.0).endswith("is -2.0%.")


def test_months_that_could_not_be_judged_say_nothing():
    unjudged = replace(STORY, months=[month("2021-04", None, None, None, anew=None)])
    assert (unjudged.regret, unjudged.headline) == (
        None,
        "No month could be judged, so nothing can be said about the loop.",
    )
    assert unjudged.headline in Page(replay_page(unjudged)).text


def test_the_error_of_all_months_weighs_them_by_their_trips(story):
    assert "the system 5.57 min" in story[1].text
    assert "anew each month 5.00 min" in story[1].text
    assert "trained once 5.94 min" in story[1].text
    assert "notebook 7.93 min" in story[1].text


def test_what_it_took_is_counted():
    assert STORY.counted == "1 promotion, 1 refusal, 1 alert, 0 relapses; 123 s of processor time."


def test_what_happened_is_counted(story):
    assert "1 × data broken, 1 × alert, 1 × promotion, 1 × refusal" in story[1].text  # noqa: RUF001


def test_every_month_is_in_the_table_with_its_events(story):
    page = story[1]
    for row in (
        "2021-04 1,000 5.00 5.00 5.00 7.00 version 1 –",  # noqa: RUF001
        "2021-05 3,000 6.00 5.00 6.00 8.00 version 1 – alert RMSE of version 1 is too high.",  # noqa: RUF001
        "challenger Version 2 is tried.",
        "2021-07 0 – – – – version 1 version 2, 10% of riders data broken 2021-07 is broken.",  # noqa: RUF001
        "2022-01 1,000 5.00 5.00 6.50 – version 2 – promotion Version 2 is better.",  # noqa: RUF001
        "2022-02 1,000 4.80 5.00 6.00 8.50 version 2 – refusal No candidate is better.",  # noqa: RUF001
    ):
        assert row in page.text, row


def test_the_rule_and_the_rollout_are_written_out(story):
    page = story[1]
    assert all(sentence in page.text for sentence in rule_sentences(STORY.rule))
    assert "A challenger answers 10% of the riders." in page.text
    assert "A month is published 2 months after its end." in page.text
    assert "first version trained on 2021-01, 2021-02, judged on 2021-03" in page.text


def test_the_picture_is_there_for_wide_and_for_narrow_screens(story):
    wide, narrow = map(parsed, story[1].drawings)
    assert wide.attrib["aria-label"] == narrow.attrib["aria-label"]
    assert "2022-01 the system 5.00, anew each month 5.00, trained once 6.50; 2022-02" in wide.attrib["aria-label"]
    assert "2021-07" not in wide.attrib["aria-label"]
    for drawing in (wide, narrow):
        texts = [text.text for text in drawing.iter("text")]
        for part in ("the system", "anew each month", "trained once", "notebook", "version", "alert", "promotion"):
            assert part in texts
        assert "withdrawal" not in texts  # no lane for what never happened
        assert "⋯" in texts  # the months that were left out


def test_no_picture_refers_to_a_part_of_the_other(story):
    wide, narrow = story[1].drawings
    for drawing in (wide, narrow):
        wanted = set(re.findall(r'href="#([^"]+)"', drawing)) | set(re.findall(r"url\(#([^)]+)\)", drawing))
        assert wanted
        assert wanted <= set(re.findall(r'id="([^"]+)"', drawing))
    identities = [
        {each for each in re.findall(r'id="(m\w+|p\w{6,})"', drawing) if "_" not in each} for drawing in (wide, narrow)
    ]
    assert identities[0]
    assert not identities[0] & identities[1]


def test_a_line_stops_where_a_month_is_missing(story):
    (wide, _) = story[1].drawings
    lines = re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--series-1\)', wide)
    assert next(line.count("M") for line in lines if "L" in line) == 2


def test_three_years_of_months_are_drawn():
    keys = [f"{year}-{each:02d}" for year in (2021, 2022, 2023) for each in range(1, 13)]
    page = Page(replay_page(replace(STORY, months=[month(key) for key in keys])))
    wide, narrow = ([text.text for text in drawing.iter("text")] for drawing in map(parsed, page.drawings))
    assert {"2021", "2022", "2023"} <= set(wide)
    assert 3 <= sum(text in {"Jan", "Apr", "May", "Jul", "Sep", "Oct"} for text in narrow) <= 18


def test_months_that_are_none_are_refused():
    with pytest.raises(InvalidRequest, match="'June' is not a month"):
        replay_page(replace(STORY, months=[month("June")]))


def test_what_comes_from_outside_is_text_and_nothing_else():
    hostile = replace(
        STORY,
        subject=HOSTILE,
        source=HOSTILE,
        train_months=[HOSTILE],
        months=[month("2021-04", 5, 5, 5, ("alert", HOSTILE))],
    )
    page = Page(replay_page(hostile))
    assert page.text.count(HOSTILE) >= 3
    assert not [tag for tag, attributes in page.elements if tag in {"img", "script"} or "onerror" in attributes]


def test_the_page_asks_for_nothing_from_outside(story):
    check_self_contained(*story, most_bytes=500_000)
