// The estimate over a day: the champion's line in its interval band, the challenger's line, the chosen time.

import { HALF_HOURS, clock } from "./trip.js";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 26, right: 22, bottom: 28, left: 34 };

// Steps of the axis of minutes: the smallest that needs at most five.
const STEPS = [1, 2, 5, 10, 15, 20, 30, 60];

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export class DayChart {
  // svg: the element to draw in; onPoint: called with a half hour that is only looked at, or null when none is any more;
  // onChoose: called with a half hour that is chosen, by pointer or keyboard.
  constructor(svg, { onPoint, onChoose }) {
    this.svg = svg;
    this.arms = null;
    this.chosen = 0;
    this.pointed = null;
    this.onPoint = onPoint;
    this.onChoose = onChoose;
    svg.addEventListener("pointermove", (event) => this.point(this.halfHourAt(event)));
    svg.addEventListener("pointerleave", () => this.point(null));
    svg.addEventListener("click", (event) => this.arms && this.onChoose(this.halfHourAt(event)));
    svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.render()).observe(svg);
  }

  // arms: by name {minutes, lower, upper}, 48 values each, or null; chosen: a half hour; answering: an arm's name.
  show(arms, chosen, answering) {
    this.arms = arms;
    this.chosen = chosen;
    this.answering = arms?.[answering] ? answering : "champion";
    this.render();
  }

  point(halfHour) {
    if (!this.arms || halfHour === this.pointed) return;
    this.pointed = halfHour;
    this.render();
    this.onPoint(halfHour);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 4, PageDown: -4 }[event.key];
    const to = { Home: 0, End: HALF_HOURS - 1 }[event.key] ?? (step && this.chosen + step);
    if (to === undefined || !this.arms) return;
    event.preventDefault();
    this.onChoose(Math.min(Math.max(to, 0), HALF_HOURS - 1));
  }

  get span() {
    return this.svg.clientWidth - MARGIN.left - MARGIN.right;
  }

  x(halfHour) {
    return MARGIN.left + (halfHour / HALF_HOURS) * this.span;
  }

  halfHourAt(event) {
    const along = event.clientX - this.svg.getBoundingClientRect().left - MARGIN.left;
    return Math.min(Math.max(Math.round((along / this.span) * HALF_HOURS), 0), HALF_HOURS - 1);
  }

  render() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (!this.arms || this.span <= 0) return this.svg.replaceChildren();
    const most = Math.max(...Object.values(this.arms).map(({ minutes }) => Math.max(...minutes)), ...this.arms.champion.upper);
    const step = STEPS.find((size) => most <= 5 * size) ?? 60;
    const top = Math.ceil(most / step) * step;
    const floor = height - MARGIN.bottom;
    const y = (minutes) => floor - (minutes / top) * (floor - MARGIN.top);
    const at = (minutes, halfHour) => `${this.x(halfHour).toFixed(1)} ${y(minutes).toFixed(1)}`;
    const line = (values) => `M${values.map(at).join("L")}`;
    const parts = [draw("text", { class: "unit", x: 0, y: 12 }, "minutes")];

    for (let minutes = 0; minutes <= top; minutes += step) {
      parts.push(draw("path", { class: minutes ? "grid" : "axis", d: `M${MARGIN.left} ${y(minutes)}H${width - MARGIN.right}` }));
      parts.push(draw("text", { class: "tick", x: MARGIN.left - 8, y: y(minutes) + 4, "text-anchor": "end" }, minutes));
    }
    for (let hour = 0; hour <= 24; hour += width < 560 ? 6 : 3) {
      const label = hour % 24 === 0 ? "12 AM" : clock(hour * 60).replace(":00", "");
      parts.push(draw("path", { class: "axis", d: `M${this.x(hour * 2)} ${floor}v4` }));
      parts.push(draw("text", { class: "tick", x: this.x(hour * 2), y: floor + 20, "text-anchor": "middle" }, label));
    }

    const { champion, challenger } = this.arms;
    const lower = champion.lower.map(at).reverse().join("L");
    parts.push(draw("path", { class: "band", d: `${line(champion.upper)}L${lower}Z` }));
    if (challenger) parts.push(draw("path", { class: "line challenger", d: line(challenger.minutes) }));
    parts.push(draw("path", { class: "line", d: line(champion.minutes) }));

    const mark = (halfHour, kind) => {
      const minutes = this.arms[this.answering].minutes[halfHour];
      parts.push(draw("path", { class: `rule ${kind}`, d: `M${this.x(halfHour)} ${MARGIN.top}V${floor}` }));
      parts.push(draw("circle", { class: `dot ${kind}`, cx: this.x(halfHour), cy: y(minutes), r: kind === "chosen" ? 7 : 5 }));
    };
    if (this.pointed !== null && this.pointed !== this.chosen) mark(this.pointed, "pointed");
    mark(this.chosen, "chosen");
    this.svg.replaceChildren(...parts);
  }
}
