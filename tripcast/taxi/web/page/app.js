// The page: what is chosen, asked and shown.

import * as api from "./api.js";
import { DayChart } from "./chart.js";
import { ZoneCombobox } from "./combobox.js";
import { capital, decimal, showArms, showModel } from "./model_card.js";
import { HALF_HOURS, addressOf, clock, halfHourOf, timeOf, tripFromAddress, weekdayOf } from "./trip.js";
import { showWhy } from "./why.js";

const at = (id) => document.getElementById(id);

const trip = tripFromAddress(location.search);
let serving = null; // what GET /model said
let day = null; // what GET /explore said of this trip's day
let dayOf = null; // the address of that day
let answer = null; // what POST /predict said of this trip
let asking = new AbortController();
let timer = 0;

// A rider keeps the same arm: the same name from visit to visit, or for this visit where nothing can be kept.
const rider = (() => {
  const fresh = crypto.getRandomValues(new Uint32Array(4)).reduce((text, word) => text + word.toString(16).padStart(8, "0"), "");
  try {
    localStorage.tripcastRider ??= fresh;
    return localStorage.tripcastRider;
  } catch {
    return fresh;
  }
})();

const pickup = new ZoneCombobox(at("pickup"), (zone) => change({ pickup: zone }));
const dropoff = new ZoneCombobox(at("dropoff"), (zone) => change({ dropoff: zone }));
const chart = new DayChart(at("chart"), {
  onPoint: showReadout,
  onChoose: (halfHour) => change({ time: timeOf(halfHour) }, 120),
});

// Another trip: shown in the form and the address at once, and asked about after a pause in milliseconds.
function change(part, pause = 0) {
  const pair = "pickup" in part || "dropoff" in part;
  Object.assign(trip, pair ? { miles: null } : {}, part);
  history.replaceState(null, "", addressOf(trip));
  showForm();
  if (!pair && day) {
    chart.show(day.arms, halfHourOf(trip.time), chart.answering);
    showReadout(null);
  }
  asking.abort();
  clearTimeout(timer);
  timer = setTimeout(update, pause);
}

function unknownZone() {
  for (const [name, box] of [["pickup", pickup], ["dropoff", dropoff]]) {
    if (trip[name] !== null && !box.knows(trip[name])) return [name, trip[name]];
  }
  return null;
}

async function update() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    if (!serving) await loadServing(signal);
    const unknown = unknownZone();
    if (unknown) {
      const [name, zone] = unknown;
      const sentence = `There is no ${name} zone ${zone}. Choose one of the ${pickup.zones.length} zones by name.`;
      throw new api.ServiceError(sentence, { field: `${name}_zone` });
    }
    if (trip.pickup === null || trip.dropoff === null || !trip.date) return showState("empty");
    if (at("estimate").dataset.state !== "shown") showState("loading");
    at("estimate").setAttribute("aria-busy", "true");
    const wanted = addressOf({ ...trip, time: "" });
    let [said, explored] = await Promise.all([
      api.predict(trip, rider, signal),
      wanted === dayOf ? day : api.explore(trip, signal),
    ]);
    if (servesOthers(said, explored)) {
      await loadServing(signal);
      explored = await api.explore(trip, signal);
    }
    if (signal.aborted) return;
    [answer, day, dayOf] = [said, explored, wanted];
    showState("shown");
    showAnswer();
  } catch (trouble) {
    if (signal.aborted) return;
    showTrouble(trouble);
    if (trouble.field === "taxi") offerTaxis((await api.servingModels(null)).taxis);
  }
}

// Whether others answered than the model card speaks of: they are replaced while the page is open.
function servesOthers({ model, arm, version }, { arms }) {
  const others = serving.model !== model || serving[arm]?.version !== version;
  return others || Boolean(serving.challenger) !== Boolean(arms.challenger);
}

// taxis: the titles of those that serve, by name. There is something to choose if there are two, or not the one asked for.
function offerTaxis(taxis) {
  const names = Object.keys(taxis);
  at("taxi").replaceChildren(...names.map((name) => new Option(capital(taxis[name]), name)));
  at("taxi").value = trip.taxi ?? names[0];
  at("kind").hidden = names.length < 2 && at("taxi").value !== "";
}

async function loadServing(signal) {
  serving = await api.servingModels(trip.taxi, signal);
  offerTaxis(serving.taxis);
  at("card-link").href = api.modelAddress(trip.taxi);
  showModel(at("model"), serving);
  const { version, simulated } = serving.champion;
  at("serving").textContent = `${serving.model} · version ${version}${simulated ? " · simulated" : ""}`;
  at("simulated").hidden = !simulated;
  at("source").textContent = simulated
    ? ", learned from the trips of a made-up city"
    : ", learned from the records that the New York City Taxi and Limousine Commission publishes";
}

async function start() {
  showState("loading");
  try {
    if (!pickup.zones.length) {
      const zones = await api.zones();
      pickup.fill(zones);
      dropoff.fill(zones);
      showForm();
    }
    await update();
  } catch (trouble) {
    showTrouble(trouble);
  }
}

// loading, empty, shown or trouble: all take the same place, so nothing below moves.
function showState(state) {
  at("estimate").dataset.state = state;
  at("estimate").removeAttribute("aria-busy");
  for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  if (state === "shown") return;
  at("trouble").textContent = "";
  [day, dayOf, answer] = [null, null, null];
  chart.show(null, halfHourOf(trip.time));
  at("readout").textContent = "\u00a0";
  at("day-summary").textContent = state === "loading" ? "\u00a0" : "The chart is drawn when there is an estimate.";
  at("legend").replaceChildren();
  showArms(at("arms"), serving, null, null);
  showWhy(at("why"), undefined);
}

const INPUT_OF = {
  taxi: "taxi",
  pickup_zone: "pickup-input",
  dropoff_zone: "dropoff-input",
  trip_distance_miles: "miles",
  miles: "miles",
  pickup_datetime: "date",
  date: "date",
};

function showTrouble(trouble) {
  showState("trouble");
  at("trouble").textContent = trouble instanceof api.ServiceError ? trouble.message : `The page failed: ${trouble.message}`;
  at("retry").hidden = !trouble.passing;
  at(INPUT_OF[trouble.field])?.setAttribute("aria-invalid", "true");
}

function showForm() {
  pickup.show(trip.pickup);
  dropoff.show(trip.dropoff);
  if (trip.date) at("date").value = trip.date;
  at("time").value = trip.time;
  showDistance();
}

function showDistance() {
  const usual = day?.usual_miles ?? null;
  const planned = trip.miles !== null;
  at("plan").hidden = day?.knows_miles === false; // its model would not hear of a planned route
  if (planned) at("plan").open = true;
  if (document.activeElement !== at("miles")) at("miles").value = planned ? trip.miles : "";
  at("unplanned").hidden = !planned;
  at("miles-note").textContent = usual === null ? "\u00a0" : `Usual here: ${decimal(usual)} miles.`;
}

function atTime(arm, halfHour) {
  return { minutes: arm.minutes[halfHour], lower: arm.lower[halfHour], upper: arm.upper[halfHour] };
}

function showAnswer() {
  const { duration_minutes: minutes, lower_minutes: lower, upper_minutes: upper } = answer;
  const leaving = halfHourOf(trip.time) * 30;
  const estimates = Object.fromEntries(
    Object.entries(day.arms).map(([name, arm]) => [name, atTime(arm, halfHourOf(trip.time))]),
  );
  const longest = Math.max(30, Math.ceil(upper / 15) * 15);

  at("minutes").textContent = decimal(minutes);
  at("interval").textContent = `${decimal(lower)} to ${decimal(upper)} minutes`;
  at("scale-interval").style.left = `${(100 * lower) / longest}%`;
  at("scale-interval").style.width = `${(100 * (upper - lower)) / longest}%`;
  at("scale-estimate").style.left = `${(100 * minutes) / longest}%`;
  at("scale-end").textContent = `${longest} min`;
  at("by").textContent = clock(Math.ceil(leaving + upper));
  at("arrival").textContent = `Leave at ${clock(leaving)}, arrive at about ${clock(leaving + minutes)}.`;
  const names = {
    distance: trip.miles === null || !day.knows_miles ? "The way between them" : "The planned route",
    hour: `${weekdayOf(trip.date)}, ${clock(leaving)}`,
    pickup_zone: `From ${pickup.input.value}`,
    dropoff_zone: `To ${dropoff.input.value}`,
  };
  showWhy(at("why"), answer.explanation, names, minutes);

  showDistance();
  chart.show(day.arms, halfHourOf(trip.time), answer.arm);
  showReadout(null);
  showSummary(day.arms);
  showArms(at("arms"), serving, estimates, answer.arm);
}

// What the chart says of a half hour: the one pointed at, or else the chosen one.
function showReadout(pointed) {
  if (!day) return;
  const halfHour = pointed ?? halfHourOf(trip.time);
  const { minutes, lower, upper } = atTime(day.arms[chart.answering], halfHour);
  at("readout").textContent = `${clock(halfHour * 30)}: ${decimal(minutes)} min (${decimal(lower)} to ${decimal(upper)})`;
  if (pointed !== null) return;
  at("chart").setAttribute("aria-valuenow", halfHour);
  at("chart").setAttribute(
    "aria-valuetext",
    `${clock(halfHour * 30)}: ${decimal(minutes)} minutes, between ${decimal(lower)} and ${decimal(upper)}`,
  );
}

function showSummary({ champion, challenger }) {
  const { minutes } = champion;
  const [low, high] = [Math.min(...minutes), Math.max(...minutes)];
  const when = (value) => clock(minutes.indexOf(value) * 30);
  at("day-summary").textContent =
    `On this day the trip is quickest at ${when(low)}, ${decimal(low)} minutes, and slowest at ${when(high)}, ` +
    `${decimal(high)} minutes. Choose a time on the chart, by pointer or by arrow keys.`;
  const entry = (kind, text) => {
    const item = document.createElement("li");
    item.className = kind;
    item.textContent = text;
    return item;
  };
  at("legend").replaceChildren(
    entry("line", "Champion"),
    entry("band", "10–90% interval"),
    ...(challenger ? [entry("challenger", "Challenger")] : []),
  );
}

at("time").append(
  ...Array.from({ length: HALF_HOURS }, (_, halfHour) => new Option(clock(halfHour * 30), timeOf(halfHour))),
);
at("taxi").addEventListener("change", () => {
  serving = null;
  change({ taxi: at("taxi").value });
});
at("time").addEventListener("change", () => change({ time: at("time").value }));
at("date").addEventListener("change", () => change({ date: at("date").value }));
at("swap").addEventListener("click", () => change({ pickup: trip.dropoff, dropoff: trip.pickup }));
at("unplanned").addEventListener("click", () => {
  at("miles").focus();
  at("miles").value = "";
  change({ miles: null });
});
at("miles").addEventListener("input", () => {
  const miles = at("miles").valueAsNumber;
  change({ miles: Number.isNaN(miles) ? null : miles }, 250);
});
at("miles").addEventListener("blur", showDistance);
at("retry").addEventListener("click", () => {
  at("estimate").focus(); // the button goes
  start();
});
at("trip").addEventListener("submit", (event) => event.preventDefault());

showForm();
start();
