// The service's answers, and its failures as sentences a person can act on.

export class ServiceError extends Error {
  // field: the part of the request that the service refused, or null; passing: whether trying again may help.
  constructor(sentence, { field = null, passing = false } = {}) {
    super(sentence);
    this.field = field;
    this.passing = passing;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (trouble) {
    if (trouble.name === "AbortError") throw trouble;
    throw new ServiceError("The service cannot be reached. Check the connection.", { passing: true });
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  const said = body?.error ?? `It answered with status ${response.status}.`;
  if (response.status === 503) throw new ServiceError(`The service is not ready. ${said}`, { passing: true });
  if (response.status >= 500 || body === null) throw new ServiceError(`The service failed. ${said}`, { passing: true });
  throw new ServiceError(said, { field: body.field ?? null });
}

export const zones = () => ask("zones");

// Where the model of a taxi, or of the first one that serves, is described.
export const modelAddress = (taxi) => (taxi === null ? "model" : `model?${new URLSearchParams({ taxi })}`);

export const servingModels = (taxi, signal) => ask(modelAddress(taxi), { signal });

// Half-hour by half-hour estimates of a day, by arm.
export function explore({ taxi, pickup, dropoff, date, miles }, signal) {
  const query = new URLSearchParams({ pickup_zone: pickup, dropoff_zone: dropoff, date });
  if (miles !== null) query.set("miles", miles);
  if (taxi !== null) query.set("taxi", taxi);
  return ask(`explore?${query}`, { signal });
}

export function predict({ taxi, pickup, dropoff, date, time, miles }, rider, signal) {
  return ask("predict", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      taxi,
      pickup_zone: pickup,
      dropoff_zone: dropoff,
      trip_distance_miles: miles,
      pickup_datetime: `${date}T${time}:00`,
      rider_id: rider,
      explain: true,
    }),
    signal,
  });
}
