import math
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tripcast.taxi.zones import ZONES

TRIP = "?pickup=74&dropoff=236&at=2021-02-10T08:30"

#: An answer with its reasons.
REASONED = {
    "duration_minutes": 16.5,
    "explanation": {"average": 17.8, "distance": -4.0, "hour": 3.8, "pickup_zone": -0.7, "dropoff_zone": -0.4},
}


def open_trip(page: Page, query: str = TRIP) -> dict:
    """Open the page; gives what POST /predict answered, once it is shown."""
    with page.expect_response("**/predict") as answered:
        page.goto(query)
    shown(page)
    return answered.value.json()


def shown(page: Page) -> None:
    expect(page.locator("#estimate[data-state=shown]:not([aria-busy])")).to_be_visible()


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def choose_by_keyboard(page: Page, label: str, typed: str, *keys: str) -> None:
    page.get_by_label(label, exact=True).focus()
    page.keyboard.type(typed)
    for key in keys:
        page.keyboard.press(key)


def champion_line(page: Page) -> str:
    return page.locator("#chart .line:not(.challenger)").get_attribute("d")


def width_of_content(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth")


def test_the_estimate_is_what_the_service_answers(page):
    answer = open_trip(page)
    expect(page.locator("#minutes")).to_have_text(f"{answer['duration_minutes']:.1f}")
    expect(page.locator("#interval")).to_have_text(
        f"{answer['lower_minutes']:.1f} to {answer['upper_minutes']:.1f} minutes"
    )
    by = int(page.locator("#by").inner_text().removeprefix("8:").removesuffix(" AM"))
    assert by - 30 == math.ceil(answer["upper_minutes"])  # nine of ten trips end before the upper end
    leave, arrive = re.findall(r"(\d+):(\d+) AM", page.locator("#arrival").inner_text())
    assert leave == ("8", "30")
    late = int(arrive[0]) * 60 + int(arrive[1]) - 8 * 60 - 30
    assert late == pytest.approx(answer["duration_minutes"], abs=0.51)


def test_the_service_is_asked_about_the_trip_in_the_address(page):
    with page.expect_request("**/predict") as asked:
        page.goto(TRIP + "&miles=3.5")
    body = asked.value.post_data_json
    rider = body.pop("rider_id")
    assert re.fullmatch("[0-9a-f]{32}", rider)
    assert body == {
        "pickup_zone": 74,
        "dropoff_zone": 236,
        "taxi": None,
        "trip_distance_miles": 3.5,
        "pickup_datetime": "2021-02-10T08:30:00",
        "explain": True,
    }
    shown(page)
    with page.expect_request("**/predict") as asked_again:
        page.reload()
    assert asked_again.value.post_data_json["rider_id"] == rider  # the same rider keeps the same arm


def test_a_visit_without_a_trip_begins_now_in_new_york(page):
    page.clock.set_fixed_time("2024-07-01T03:10:00Z")  # still the evening before, in New York
    page.goto("")
    expect(page.get_by_label("Date")).to_have_value("2024-06-30")
    expect(page.get_by_label("New York time")).to_have_value("23:00")
    shown(page)


def test_zones_are_chosen_by_keyboard(page):
    open_trip(page)
    choose_by_keyboard(page, "From", "harlem", "ArrowDown")
    pickup = page.get_by_label("From", exact=True)
    options = page.locator("#pickup-list").get_by_role("option")
    names = [zone.name for zone in ZONES if "Harlem" in zone.name]
    assert sorted(text.splitlines()[0] for text in options.all_inner_texts()) == sorted(names)
    active = page.locator(f"#{pickup.get_attribute('aria-activedescendant')}")
    expect(active).to_have_attribute("aria-selected", "true")
    expect(pickup).to_have_attribute("aria-expanded", "true")
    second = active.inner_text()

    with page.expect_response("**/predict"):
        page.keyboard.press("Enter")
    expect(pickup).to_have_attribute("aria-expanded", "false")
    assert second.startswith(pickup.input_value())
    chosen = next(zone for zone in ZONES if zone.name == pickup.input_value())
    assert query_of(page)["pickup"] == [str(chosen.number)]
    shown(page)


def test_escape_leaves_the_zone_as_it_was(page):
    open_trip(page)
    choose_by_keyboard(page, "To", "newark", "Escape")
    expect(page.get_by_label("To", exact=True)).to_have_value("Upper East Side North")
    expect(page.locator("#dropoff-list")).to_be_hidden()
    assert query_of(page)["dropoff"] == ["236"]


def test_zones_of_one_name_are_told_apart_and_words_without_a_zone_are_said(page):
    open_trip(page)
    choose_by_keyboard(page, "To", "corona")
    options = page.locator("#dropoff-list").get_by_role("option")
    assert {"Corona (56)", "Corona (57)"} <= {text.splitlines()[0] for text in options.all_inner_texts()}
    choose_by_keyboard(page, "To", " nowhere")
    expect(page.locator("#dropoff-list")).to_have_text("No zone matches “corona nowhere”.")


def test_all_zones_are_there_to_choose_with_the_pointer(page):
    open_trip(page)
    page.get_by_label("From", exact=True).click()
    options = page.locator("#pickup-list").get_by_role("option")
    assert options.count() == len(ZONES)
    with page.expect_response("**/predict"):
        options.filter(has_text="JFK Airport").click()
    assert query_of(page)["pickup"] == ["132"]
    expect(page.locator("#pickup-note")).to_have_text("Queens · zone 132")


def test_swapping_turns_the_trip_around(page):
    open_trip(page)
    with page.expect_request("**/predict") as asked:
        page.get_by_role("button", name="Swap pickup and dropoff").click()
    assert (asked.value.post_data_json["pickup_zone"], asked.value.post_data_json["dropoff_zone"]) == (236, 74)
    expect(page.get_by_label("From", exact=True)).to_have_value("Upper East Side North")
    expect(page.get_by_label("To", exact=True)).to_have_value("East Harlem North")


def test_a_planned_route_is_an_option_and_can_be_left_out_again(page):
    with page.expect_response("**/explore?*") as explored:
        first = open_trip(page)
    assert first["way"] == "zones_only"
    miles = page.get_by_label("Its length, miles")
    expect(miles).to_be_hidden()
    page.get_by_text("I have a planned route").click()
    expect(miles).to_have_value("")
    expect(page.locator("#miles-note")).to_have_text(f"Usual here: {explored.value.json()['usual_miles']:.1f} miles.")

    with page.expect_response("**/predict") as answered:
        miles.fill("9.5")
    assert answered.value.request.post_data_json["trip_distance_miles"] == 9.5
    assert answered.value.json()["way"] == "planned"
    expect(page.locator("#minutes")).to_have_text(f"{answered.value.json()['duration_minutes']:.1f}")
    assert query_of(page)["miles"] == ["9.5"]

    page.get_by_role("button", name="Leave it out").click()
    expect(page.locator("#minutes")).to_have_text(f"{first['duration_minutes']:.1f}")
    expect(miles).to_have_value("")
    assert "miles" not in query_of(page)


def test_the_reasons_add_up_to_the_estimate(page):
    page.route("**/predict", lambda route: route.fulfill(json={**route.fetch().json(), **REASONED}))
    page.goto(TRIP)
    shown(page)
    assert [row.split("\n") for row in page.locator(".reason").all_inner_texts()] == [
        ["An average trip", "17.8"],
        ["The way between them", "\N{MINUS SIGN}4.0"],
        ["Wednesday, 8:30 AM", "+3.8"],
        ["From East Harlem North", "\N{MINUS SIGN}0.7"],
        ["To Upper East Side North", "\N{MINUS SIGN}0.4"],
        ["This trip, minutes", "16.5"],
    ]


def test_a_model_that_cannot_say_why_says_that(page):
    page.route("**/predict", lambda route: route.fulfill(json={**route.fetch().json(), "explanation": None}))
    page.goto(TRIP)
    shown(page)
    expect(page.locator("#why")).to_have_text("This kind of model cannot say why.")


@pytest.mark.parametrize("simulated", [False, True])
def test_a_simulated_model_says_so(page, simulated):
    def tell(route):
        body = route.fetch().json()
        body["champion"]["simulated"] = simulated
        route.fulfill(json=body)

    page.route(re.compile("/model$"), tell)
    open_trip(page)
    expect(page.locator("#simulated")).to_be_visible(visible=simulated)
    assert ("simulated" in page.locator("#serving").inner_text()) == simulated
    learned = "the trips of a made-up city" if simulated else "the New York City Taxi and Limousine Commission"
    expect(page.locator("footer")).to_contain_text(learned)


def test_the_card_of_the_model_is_a_click_away(page):
    open_trip(page)
    page.get_by_role("link", name="Its full card").click()
    expect(page.get_by_role("heading", name="The card")).to_be_visible()


def test_the_chart_moves_with_the_date(page):
    open_trip(page)
    before = champion_line(page)
    with page.expect_response("**/explore?*date=2021-02-14*"):
        page.get_by_label("Date").fill("2021-02-14")
    shown(page)
    assert champion_line(page) != before
    assert query_of(page)["at"] == ["2021-02-14T08:30"]


def test_the_chart_is_summed_up_in_words(page):
    with page.expect_response("**/explore?*") as explored:
        open_trip(page)
    minutes = explored.value.json()["arms"]["champion"]["minutes"]
    summary = page.locator("#day-summary")
    expect(summary).to_contain_text(f"{min(minutes):.1f} minutes, and slowest")
    expect(summary).to_contain_text(f"{max(minutes):.1f} minutes. Choose")
    assert champion_line(page).count("L") == 47


def test_the_time_is_chosen_on_the_chart_by_keyboard(page):
    with page.expect_response("**/explore?*") as explored:
        answer = open_trip(page)
    chart = page.get_by_role("slider", name="Pickup time")
    chart.focus()
    at_eleven = '"pickup_datetime":"2021-02-10T23:00:00"'
    with page.expect_request(lambda request: at_eleven in (request.post_data or "")):
        for key in ("End", "ArrowLeft", "ArrowLeft", "ArrowRight"):
            page.keyboard.press(key)
    minutes = explored.value.json()["arms"][answer["arm"]]["minutes"][46]
    expect(chart).to_have_attribute("aria-valuenow", "46")
    expect(chart).to_have_attribute("aria-valuetext", re.compile(rf"^11:00 PM: {minutes:.1f} minutes, between "))
    expect(page.get_by_label("New York time")).to_have_value("23:00")


def test_pointing_at_the_chart_reads_out_and_a_click_chooses(page):
    open_trip(page)
    chart = page.locator("#chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 80)
    expect(page.locator("#readout")).to_have_text(re.compile(r"^\d+:[03]0 PM: [\d.]+ min \([\d.]+ to [\d.]+\)$"))
    pointed = page.locator("#readout").inner_text().split(": ")[0]
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 80)
    expect(page.get_by_label("New York time").locator("option:checked")).to_have_text(pointed)


def test_each_model_says_its_estimate_and_its_share_of_the_riders(page):
    with page.expect_response("**/model") as served, page.expect_response("**/explore?*") as explored:
        answer = open_trip(page)
    model, arms = served.value.json(), explored.value.json()["arms"]
    assert page.locator(".arm").count() == len(arms) == 2
    for name, share in (("champion", 1 - model["share"]), ("challenger", model["share"])):
        row = page.locator(f".arm.{name}")
        expect(row.locator(".said strong")).to_have_text(f"{arms[name]['minutes'][17]:.1f}")
        expect(row.locator(".share")).to_have_text(f"version {model[name]['version']}, {100 * share:.0f}% of riders")
    expect(page.locator(f".arm.{answer['arm']} .badge")).to_have_text("your estimate")


def test_without_a_challenger_the_champion_answers_all_riders(page):
    def only_the_champion(route):
        answer = route.fetch()
        body = answer.json()
        if "arms" in body:
            del body["arms"]["challenger"]
        else:
            body |= {"challenger": None, "share": 0.0}
        route.fulfill(response=answer, json=body)

    page.route(re.compile(r"/(model|explore)(\?|$)"), only_the_champion)
    open_trip(page)
    expect(page.locator(".arm")).to_have_count(1)
    expect(page.locator(".arm .share")).to_contain_text("100% of riders")
    expect(page.locator("#arms")).to_contain_text("No challenger stands beside the champion now.")
    expect(page.locator("#chart .challenger")).to_have_count(0)


def test_a_version_that_replaces_another_is_noticed(page):
    page.goto(TRIP)
    shown(page)

    def next_version(route):
        answer = route.fetch()
        body = answer.json()
        body.get("champion", body)["version"] = 77
        route.fulfill(response=answer, json=body)

    page.route(re.compile("/(model|predict)$"), next_version)
    page.get_by_role("button", name="Swap pickup and dropoff").click()
    expect(page.locator("#serving")).to_contain_text("version 77")
    shown(page)


def test_the_model_card_says_what_serves(page):
    with page.expect_response("**/model") as served:
        open_trip(page)
    champion = served.value.json()["champion"]
    card = page.locator("#model")
    expect(card).to_contain_text(f"version {champion['version']}")
    expect(card).to_contain_text(champion["candidate"])
    expect(card).to_contain_text("January and February 2021")
    expect(card).to_contain_text(f"{champion['trips']:,}")
    expect(card).to_contain_text(champion["digest"][:12])
    expect(card).to_contain_text(f"RMSE {champion['calibration']['rmse']:.2f} minutes")
    scores = card.locator(".score strong").all_inner_texts()
    assert scores == [f"{champion['metrics'][name]:.2f}" for name in ("rmse", "notebook_rmse")]
    own, notebook = (card.locator(f".bar.{kind}").bounding_box()["width"] for kind in ("own", "notebook"))
    assert own / notebook == pytest.approx(champion["metrics"]["rmse"] / champion["metrics"]["notebook_rmse"], abs=0.02)


def test_the_address_restores_the_trip(page):
    open_trip(page, "?pickup=132&dropoff=57&at=2022-03-05T17:00&miles=4.2")
    expect(page.get_by_label("From", exact=True)).to_have_value("JFK Airport")
    expect(page.get_by_label("To", exact=True)).to_have_value("Corona (57)")
    expect(page.get_by_label("Date")).to_have_value("2022-03-05")
    expect(page.get_by_label("New York time")).to_have_value("17:00")
    expect(page.get_by_label("Its length, miles")).to_have_value("4.2")


def test_a_trip_without_its_end_asks_for_it(page):
    page.goto("?pickup=132")
    expect(page.get_by_text("Choose where the trip starts and ends, and when.")).to_be_visible()
    expect(page.locator("#model")).to_contain_text("January")


@pytest.mark.parametrize("zone", ["999", "somewhere"])
def test_a_zone_that_does_not_exist_is_named(page, zone):
    page.goto(f"?pickup={zone}&dropoff=236&at=2021-02-10T08:30")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"There is no pickup zone {zone}. Choose one of the 265 zones by name.")
    expect(page.get_by_label("From", exact=True)).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    choose_by_keyboard(page, "From", "jfk", "Enter")
    shown(page)
    expect(alert).to_be_hidden()


def test_what_the_service_refuses_is_said_in_its_words_beside_the_field(page):
    open_trip(page)
    page.get_by_text("I have a planned route").click()
    with page.expect_response("**/predict") as answered:
        page.get_by_label("Its length, miles").fill("500")
    assert 400 <= answered.value.status < 500
    expect(page.get_by_role("alert")).to_contain_text(answered.value.json()["error"])
    expect(page.get_by_label("Its length, miles")).to_have_attribute("aria-invalid", "true")


def test_a_service_that_is_not_ready_says_so_and_answers_when_asked_again(page):
    sentence = "No model is loaded yet."
    page.route(
        re.compile(r"/(model|predict|explore)(\?|$)"),
        lambda route: route.fulfill(status=503, json={"error": sentence, "field": None}),
    )
    page.goto(TRIP)
    expect(page.get_by_role("alert")).to_contain_text(f"The service is not ready. {sentence}")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    shown(page)
    expect(page.locator("#serving")).to_contain_text("version")


def test_a_lost_network_is_said_and_the_page_recovers(page):
    open_trip(page)
    page.context.set_offline(True)
    page.get_by_role("button", name="Swap pickup and dropoff").click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached. Check the connection.")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    shown(page)


def test_an_answer_that_is_no_json_is_an_error_and_not_a_blank_page(page):
    page.route("**/explore?*", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    page.goto(TRIP)
    expect(page.get_by_role("alert")).to_contain_text("The service failed. It answered with status 502.")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_names_from_the_service_are_text_and_nothing_else(page):
    hostile = "<img src=x onerror=alert(1)>"
    page.route("**/zones", lambda route: route.fulfill(json=[{"zone": 74, "name": hostile, "borough": hostile}]))
    page.goto("?pickup=74")
    expect(page.get_by_label("From", exact=True)).to_have_value(hostile)
    page.get_by_label("From", exact=True).click()
    expect(page.locator("#pickup-list").get_by_role("option")).to_contain_text(hostile)
    expect(page.locator("main img")).to_have_count(0)


def test_nothing_is_wider_than_a_narrow_screen(page):
    page.set_viewport_size({"width": 360, "height": 740})
    open_trip(page, "?pickup=103&dropoff=84&at=2021-02-10T08:30")
    assert width_of_content(page) <= 360
    page.get_by_label("To", exact=True).click()
    for width in (320, 360, 768):
        page.set_viewport_size({"width": width, "height": 740})
        assert width_of_content(page) <= width


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_moves_while_an_estimate_arrives(page, width):
    page.set_viewport_size({"width": width, "height": 3200})  # what is out of sight is not counted
    page.add_init_script(
        "window.moved = 0; new PerformanceObserver((list) => { for (const entry of list.getEntries()) "
        "window.moved += entry.value; }).observe({ type: 'layout-shift', buffered: true });"
    )
    open_trip(page)
    page.get_by_role("button", name="Swap pickup and dropoff").click()
    shown(page)
    assert page.evaluate("window.moved") < 0.01


def test_all_can_be_reached_by_the_keyboard(page):
    open_trip(page)
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    in_order = ["tripcast", "pickup-input", "dropoff-input", "swap", "date", "time", "plan-title", "chart"]
    assert [name for at, name in enumerate(reached) if name in in_order and name not in reached[:at]] == in_order


def test_words_stand_out_from_what_is_behind_them_in_light_and_dark(page):
    open_trip(page)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert faint_words(page) == []


def faint_words(page: Page) -> list[tuple[str, float]]:
    """The texts that are shown with a contrast below the 4.5 that WCAG 2.2 asks for, and their contrast."""
    return page.evaluate(
        """() => {
          const luminance = (colour) => {
            const [red, green, blue] = colour.match(/[\\d.]+/g).map((part) => part / 255)
              .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
            return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
          };
          const behind = (element) => {
            const colour = getComputedStyle(element).backgroundColor;
            return colour === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : colour;
          };
          const words = "h1, h2, h3, p, label, small, strong, dt, dd, a, span, li";
          const texts = [...document.querySelectorAll(words)];
          return texts.filter((element) => element.checkVisibility({ visibilityProperty: true })
              && element.textContent.trim()).map((element) => {
            const [one, other] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
            return [element.textContent.trim(), (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
          }).filter(([, contrast]) => contrast < 4.5);
        }"""
    )


def test_nothing_is_asked_of_another_host_and_nothing_is_blocked(page, page_url):
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    open_trip(page)
    assert len(asked) > 8
    assert all(url.startswith(page_url) for url in asked)
    assert said == []


def test_the_page_is_small(page):
    sizes = []
    page.on("response", lambda response: sizes.append(len(response.body())) if "/static/" in response.url else None)
    with page.expect_response(lambda response: urlsplit(response.url).path == "/") as index:
        open_trip(page)
    assert 0 < sum(sizes) + len(index.value.body()) < 60_000


def test_where_one_taxi_serves_there_is_none_to_choose(page):
    open_trip(page)
    expect(page.get_by_label("Taxi", exact=True)).to_be_hidden()


def test_a_taxi_is_chosen_and_its_own_model_answers(taxis):
    page = taxis
    first = open_trip(page)
    choice = page.get_by_label("Taxi", exact=True)
    expect(choice).to_have_value("green")
    assert choice.locator("option").all_inner_texts() == ["Green taxi", "Yellow taxi", "For-hire vehicle"]
    assert (first["model"], "taxi" in query_of(page)) == ("tripcast-green", False)

    with page.expect_response("**/predict") as answered:
        choice.select_option("yellow")
    said = answered.value.json()
    assert (said["model"], said["version"]) == ("tripcast-yellow", 5)
    shown(page)
    expect(page.locator("#minutes")).to_have_text(f"{said['duration_minutes']:.1f}")
    expect(page.locator("#serving")).to_have_text("tripcast-yellow · version 5")
    expect(page.locator("#model")).to_contain_text("linear")
    expect(page.locator("#card-link")).to_have_attribute("href", "model?taxi=yellow")
    assert query_of(page)["taxi"] == ["yellow"]

    with page.expect_response("**/predict") as answered_again:
        page.reload()
    assert answered_again.value.json()["model"] == "tripcast-yellow"
    shown(page)
    expect(choice).to_have_value("yellow")


def test_a_planned_route_is_offered_where_the_model_knows_distances_alone(taxis):
    page = taxis
    page.goto(TRIP + "&miles=5&taxi=fhv")
    shown(page)
    plan, choice = page.locator("#plan"), page.get_by_label("Taxi", exact=True)
    expect(plan).to_be_hidden()
    expect(page.locator("#why")).not_to_contain_text("The planned route")
    with page.expect_response("**/predict"):
        choice.select_option("green")
    shown(page)
    expect(plan).to_be_visible()
    expect(page.get_by_label("Its length, miles")).to_have_value("5")


def test_a_taxi_that_is_none_is_said_and_another_one_chosen(taxis):
    page = taxis
    page.goto(TRIP + "&taxi=red")
    expect(page.locator("#trouble")).to_have_text('There is no taxi "red". Those that serve: green, yellow, fhv.')
    choice = page.get_by_label("Taxi", exact=True)
    expect(choice).to_have_attribute("aria-invalid", "true")
    with page.expect_response("**/predict"):
        choice.select_option("green")
    shown(page)
    expect(page.locator("#serving")).to_have_text("tripcast-green · version 3")
