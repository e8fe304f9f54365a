// Why an estimate is what it is: an average trip's minutes, and what distance, hour and the two zones add to them.

import { decimal } from "./model_card.js";

const signed = (minutes) => `${minutes < 0 ? "\u2212" : "+"}${decimal(Math.abs(minutes))}`;

function row(name, minutes, kind, most) {
  const made = document.createElement("div");
  made.className = `reason ${kind}`;
  const parts = ["name", "push", "figure"].map((part) => Object.assign(document.createElement("span"), { className: part }));
  parts[0].textContent = parts[0].title = name;
  parts[2].textContent = kind === "moves" ? signed(minutes) : decimal(minutes);
  if (kind === "moves") {
    const bar = document.createElement("i");
    bar.className = minutes < 0 ? "less" : "more";
    bar.style.setProperty("--length", Math.abs(minutes) / most);
    parts[1].append(bar);
  }
  made.append(...parts);
  return made;
}

// explanation: as the service answers, null if the model has none, undefined if nothing was answered; names: of what
// moves the estimate, by its name in the explanation; minutes: the estimate.
export function showWhy(root, explanation, names, minutes) {
  if (!explanation) {
    const sentence = explanation === null ? "This kind of model cannot say why." : "\u00a0";
    root.replaceChildren(Object.assign(document.createElement("p"), { className: "summary", textContent: sentence }));
    return;
  }
  const moves = Object.entries(names).map(([part, name]) => [name, explanation[part]]);
  const most = Math.max(...moves.map(([, move]) => Math.abs(move)), 1);
  root.replaceChildren(
    row("An average trip", explanation.average, "start", most),
    ...moves.map(([name, move]) => row(name, move, "moves", most)),
    row("This trip, minutes", minutes, "total", most),
  );
}
