// Search as you type over the taxi zones: the ARIA combobox pattern with a list box.
// https://www.w3.org/WAI/ARIA/apg/patterns/combobox/

// Best first: the name begins with the words, a word of it does, it holds them, the borough or the number is meant.
function rank(zone, words) {
  const name = zone.name.toLowerCase();
  if (name.startsWith(words)) return 0;
  if (name.split(/[^a-z0-9']+/).some((_, at, all) => all.slice(at).join(" ").startsWith(words))) return 1;
  if (name.includes(words)) return 2;
  if (zone.borough.toLowerCase().startsWith(words) || String(zone.zone) === words) return 3;
  const all = `${name} ${zone.borough.toLowerCase()}`;
  return words.split(/\s+/).every((word) => all.includes(word)) ? 4 : -1;
}

export class ZoneCombobox {
  // root: the element around an input, a list box and a note; onChoose: called with a zone number.
  constructor(root, onChoose) {
    this.input = root.querySelector("input");
    this.list = root.querySelector("[role=listbox]");
    this.note = root.querySelector(".note");
    this.onChoose = onChoose;
    this.zones = [];
    this.matches = [];
    this.active = -1;
    this.value = null;
    this.input.addEventListener("input", () => this.open(this.input.value));
    this.input.addEventListener("click", () => this.open(""));
    this.input.addEventListener("focus", () => this.input.select());
    this.input.addEventListener("blur", () => this.close());
    this.input.addEventListener("keydown", (event) => this.key(event));
    // The input keeps the focus while the list is scrolled or clicked.
    this.list.addEventListener("mousedown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.choose(this.matches[Number(option.dataset.at)]);
    });
  }

  fill(zones) {
    const times = new Map();
    for (const zone of zones) times.set(zone.name, (times.get(zone.name) ?? 0) + 1);
    this.zones = zones
      .map((zone) => ({ ...zone, label: times.get(zone.name) > 1 ? `${zone.name} (${zone.zone})` : zone.name }))
      .sort((one, other) => one.label.localeCompare(other.label, "en", { numeric: true }));
  }

  knows(number) {
    return this.zones.some(({ zone }) => zone === number);
  }

  show(number) {
    this.value = number;
    const zone = this.zones.find((candidate) => candidate.zone === number);
    this.input.value = zone?.label ?? "";
    this.note.textContent = zone ? `${zone.borough} · zone ${zone.zone}` : "\u00a0";
  }

  open(text) {
    const words = text.trim().toLowerCase();
    this.matches = words
      ? this.zones
          .map((zone) => [rank(zone, words), zone])
          .filter(([place]) => place >= 0)
          .sort(([one], [other]) => one - other)
          .map(([, zone]) => zone)
      : this.zones;
    this.list.replaceChildren(...this.matches.map((zone, at) => this.option(zone, at)));
    if (!this.matches.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.textContent = `No zone matches “${text.trim()}”.`;
      this.list.append(none);
    }
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    const chosen = this.matches.findIndex(({ zone }) => zone === this.value);
    this.activate(words ? 0 : chosen);
  }

  option(zone, at) {
    const option = document.createElement("li");
    option.id = `${this.list.id}-${zone.zone}`;
    option.setAttribute("role", "option");
    option.dataset.at = at;
    const borough = document.createElement("small");
    borough.textContent = zone.borough;
    option.append(zone.label, " ", borough);
    return option;
  }

  activate(at) {
    this.list.children[this.active]?.setAttribute("aria-selected", "false");
    this.active = this.matches.length ? at : -1;
    const option = this.matches[this.active] && this.list.children[this.active];
    if (!option) return this.input.removeAttribute("aria-activedescendant");
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", option.id);
  }

  close() {
    this.list.hidden = true;
    this.active = -1;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.show(this.value);
  }

  choose({ zone }) {
    this.show(zone);
    this.close();
    this.input.select();
    this.onChoose(zone);
  }

  key(event) {
    const closed = this.list.hidden;
    const count = this.matches.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (closed) this.open("");
      else if (event.key === "ArrowDown") this.activate(this.active + 1 < count ? this.active + 1 : 0);
      else this.activate(this.active > 0 ? this.active - 1 : count - 1);
    } else if (event.key === "Enter" && !closed) {
      if (this.matches[this.active]) this.choose(this.matches[this.active]);
    } else if (event.key === "Escape" && !closed) {
      this.close();
      this.input.select();
    } else {
      return;
    }
    event.preventDefault();
  }
}
