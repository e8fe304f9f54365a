// What serves: the arms and how they share the riders, and the champion's card.

// "137,818"
const whole = new Intl.NumberFormat("en-US");

export const decimal = (value, digits = 1) => value.toFixed(digits);

export const capital = (word) => word[0].toUpperCase() + word.slice(1);

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const percent = (share) => `${Number((100 * share).toFixed(1))}%`;

const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

// "January and February 2021": runs of months of one year are named together.
function monthsInWords(months) {
  const list = new Intl.ListFormat("en", { type: "conjunction" });
  return [...new Set(months.map((month) => month.slice(0, 4)))]
    .map((year) => {
      const names = months.filter((month) => month.startsWith(year)).map((month) => MONTHS[Number(month.slice(5)) - 1]);
      return `${names.length > 3 ? `${names[0]} to ${names.at(-1)}` : list.format(names)} ${year}`;
    })
    .join("; ");
}

// estimates: by arm's name {minutes, lower, upper} of the chosen trip, or null; answered: the arm that answered.
export function showArms(root, serving, estimates, answered) {
  const names = ["champion", "challenger"].filter((name) => serving?.[name]);
  root.replaceChildren(
    ...names.map((name) => {
      const said = estimates?.[name];
      const share = name === "champion" ? 1 - (serving.challenger ? serving.share : 0) : serving.share;
      const row = element(
        "div",
        `arm ${name}`,
        element("p", "name", element("i", "swatch"), element("strong", "", capital(name))),
        element("p", "said", element("strong", "", said ? decimal(said.minutes) : "–"), " min"),
        element("p", "share", `version ${serving[name].version}, ${percent(share)} of riders`),
        element("p", "between", said ? `${decimal(said.lower)} to ${decimal(said.upper)}` : "\u00a0"),
      );
      if (name === answered && serving.challenger) row.append(element("span", "badge", "your estimate"));
      return row;
    }),
  );
  if (!serving) root.append(element("p", "summary", "Which models serve is not known yet."));
  else if (!serving.challenger) root.append(element("p", "summary", "No challenger stands beside the champion now."));
}

function bars(metrics, month) {
  const most = Math.max(metrics.rmse, metrics.notebook_rmse);
  const rows = [["This model", metrics.rmse, "own"], ["Notebook", metrics.notebook_rmse, "notebook"]].map(([name, rmse, kind]) => {
    const bar = element("i", `bar ${kind}`);
    bar.style.setProperty("--length", rmse / most);
    return element("div", "score", element("span", "", name), element("span", "track", bar), element("strong", "", decimal(rmse, 2)));
  });
  const less = 1 - metrics.rmse / metrics.notebook_rmse;
  const figure = element("div", "scores", ...rows);
  const words = less > 0 ? `${Math.round(100 * less)}% lower than the notebook's linear regression` : "no lower than the notebook's linear regression";
  return [
    element("h3", "", `RMSE on the metered trips of ${month ? monthsInWords([month]) : "the test month"}, minutes`),
    figure,
    element("p", "summary", `Metered, as riders are not, the error is ${words}.`),
  ];
}

export function showModel(root, { model, champion }) {
  const { calibration, metrics } = champion;
  const fact = (name, ...value) => element("div", "", element("dt", "", name), element("dd", "", ...value));
  const digest = element("code", "", champion.digest.slice(0, 12));
  digest.title = champion.digest;
  const compared = metrics?.rmse && metrics?.notebook_rmse;
  root.replaceChildren(
    element(
      "dl",
      "facts",
      fact("Model", `${model} version ${champion.version}`),
      fact("Kind", champion.candidate),
      fact("Trained on", monthsInWords(champion.train_months)),
      fact("Trips", whole.format(champion.trips)),
      fact("Digest", digest),
    ),
    element(
      "div",
      "quality",
      ...(compared ? bars(metrics, champion.test_month) : [element("p", "summary", "The registry holds no test figures of this version.")]),
      element("h3", "", "Calibration"),
      element(
        "p",
        "summary",
        `On ${whole.format(calibration.trips)} trips held out of training: RMSE ${decimal(calibration.rmse, 2)} minutes, ` +
          `mean absolute error ${decimal(calibration.mae, 2)}, intervals ${decimal(calibration.interval_minutes)} wide on average.`,
      ),
    ),
  );
}
