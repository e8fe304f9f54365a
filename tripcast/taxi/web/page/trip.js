// The trip that is asked about: its form in the address, and times as New York reads them.

export const HALF_HOURS = 48;

// What the page opens with: a usual trip of the first model's data, East Harlem North to Upper East Side North.
const EXAMPLE = { pickup: 74, dropoff: 236 };

// "Wednesday" of an ISO date.
export function weekdayOf(date) {
  return new Intl.DateTimeFormat("en-US", { weekday: "long", timeZone: "UTC" }).format(new Date(`${date}T00:00:00Z`));
}

// "08:30" of half hour 17, counted from midnight.
export function timeOf(halfHour) {
  return `${String(halfHour >> 1).padStart(2, "0")}:${halfHour % 2 ? "30" : "00"}`;
}

export function halfHourOf(time) {
  const [hours, minutes] = time.split(":").map(Number);
  return hours * 2 + Math.floor(minutes / 30);
}

// "8:42 AM" of minutes since midnight, of whatever day.
export function clock(minutes) {
  const whole = ((Math.round(minutes) % 1440) + 1440) % 1440;
  const hour = Math.floor(whole / 60);
  return `${hour % 12 || 12}:${String(whole % 60).padStart(2, "0")} ${hour < 12 ? "AM" : "PM"}`;
}

function newYorkNow() {
  const format = new Intl.DateTimeFormat("en-CA", {
    timeZone: "America/New_York", hourCycle: "h23",
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
  });
  const part = Object.fromEntries(format.formatToParts(new Date()).map(({ type, value }) => [type, value]));
  return { date: `${part.year}-${part.month}-${part.day}`, time: `${part.hour}:${part.minute}` };
}

// A trip is {taxi, pickup, dropoff, date, time, miles}: a taxi's name or null for the first that serves, zone numbers or
// null, ISO date, half hour "HH:MM", miles of a planned route or null.
export function tripFromAddress(search) {
  const query = new URLSearchParams(search);
  const zone = (name) => {
    const text = query.get(name);
    if (!text) return null;
    return /^\d+$/.test(text) ? Number(text) : text; // what is no number is named when it is refused
  };
  const miles = parseFloat(query.get("miles"));
  const [, date, time] = query.get("at")?.match(/^(\d{4}-\d{2}-\d{2})T([01]\d:[0-5]\d|2[0-3]:[0-5]\d)$/) ?? [];
  const now = newYorkNow();
  const given = query.has("pickup") || query.has("dropoff");
  return {
    taxi: query.get("taxi"),
    ...(given ? { pickup: zone("pickup"), dropoff: zone("dropoff") } : EXAMPLE),
    date: date ?? now.date,
    time: timeOf(halfHourOf(time ?? now.time)),
    miles: Number.isFinite(miles) ? miles : null,
  };
}

export function addressOf({ taxi, pickup, dropoff, date, time, miles }) {
  const query = new URLSearchParams();
  if (taxi !== null) query.set("taxi", taxi);
  if (pickup !== null) query.set("pickup", pickup);
  if (dropoff !== null) query.set("dropoff", dropoff);
  query.set("at", `${date}T${time}`);
  if (miles !== null) query.set("miles", miles);
  return `?${query.toString().replace("%3A", ":")}`;
}
