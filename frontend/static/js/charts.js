// Small line charts of per-epoch series, with quantile bands, in the page's own colours.
import uPlot from "../vendor/uplot/uPlot.esm.js";

const HEIGHT = 176;

/** What a finetune shows. `band` names the column of quantile lists and the places of the outer and inner pair in it. */
export const FINETUNE_CHARTS = [
  { title: "Reward", unit: "", series: ["reward_mean", "eval_reward_mean"], labels: ["mean", "fixed seeds"],
    band: { column: "reward_quantiles", pairs: [[0, 4], [1, 3]] } },
  { title: "KL, trained steps", unit: "nats", series: ["kl_nats", "eval_kl_trained_nats"],
    labels: ["rollouts", "fixed seeds"] },
  { title: "Clip fraction", unit: "", series: ["clip_fraction"], labels: [""] },
  { title: "Gradient norm", unit: "", series: ["grad_norm"], labels: [""] },
  { title: "Learning rate", unit: "", series: ["lr"], labels: [""] },
  { title: "Diversity", unit: "different images", series: ["diversity"], labels: [""] },
  { title: "Clip fraction by timestep", unit: "newest epoch", series: ["clip_fraction_t"], labels: [""], x: "timesteps" },
  { title: "Log ratio by timestep", unit: "nats, newest epoch", series: ["log_ratio_t"], labels: [""], x: "timesteps" },
  { title: "Gradient norm by timestep", unit: "newest epoch", series: ["grad_norm_t"], labels: [""], x: "timesteps" },
];

/** One chart a held-out reward. */
export function heldOutCharts(columns) {
  return Object.keys(columns)
    .filter((name) => name.startsWith("holdout_") && columns[name].some((value) => typeof value === "number"))
    .map((name) => ({
      title: `Held out: ${name.slice(8).split(":")[0].replaceAll("_", " ")}`, unit: "", series: [name], labels: [""],
    }));
}

/** One chart a numeric column, for jobs whose series are not known in advance. */
export function chartsOf(columns) {
  return Object.keys(columns)
    .filter((name) => name !== "epoch" && columns[name].some((value) => typeof value === "number"))
    .map((name) => ({ title: name.replaceAll("_", " "), unit: "", series: [name], labels: [""] }));
}

/** @returns {string} a number to three significant digits */
export function figure(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

/** What the value axis spans; a share that stayed 0 gets 0 to 1, not the library's 0 to 100. */
function valueRange(_, low, high) {
  return low === 0 && high === 0 ? [0, 1] : uPlot.rangeNum(low, high, 0.1, true);
}

export class Chart {
  /**
   * @param {HTMLElement} parent
   * @param {object} description one of `FINETUNE_CHARTS`
   */
  constructor(parent, description) {
    this.description = description;
    this.root = document.createElement("figure");
    this.root.className = "chart";
    const heading = document.createElement("h3");
    const name = document.createElement("span");
    name.textContent = description.title;
    if (description.unit) {
      const unit = document.createElement("span");
      unit.className = "unit";
      unit.textContent = ` ${description.unit}`;
      name.append(unit);
    }
    this.now = document.createElement("span");
    this.now.className = "now";
    heading.append(name, this.now);
    this.plotArea = document.createElement("div");
    this.plotArea.className = "plot";
    this.plotArea.setAttribute("role", "img");
    this.root.append(heading, this.plotArea);
    parent.append(this.root);
    new ResizeObserver(() => this.plot?.setSize({ width: this.#width(), height: HEIGHT })).observe(this.root);
    document.addEventListener("themechange", () => this.#rebuild());
  }

  /** @param {Record<string, (number|number[]|null)[]>} columns the job's metrics */
  update(columns, alarms = []) {
    const { series, band, x } = this.description;
    this.alarms = x ? [] : alarms;
    if (x) {
      this.#updateByPlace(columns);
      return;
    }
    const has = series.some((name) => columns[name]?.some((value) => typeof value === "number"));
    this.root.hidden = !has;
    if (!has) return;
    const empty = columns.epoch.map(() => null);
    this.data = [columns.epoch, ...series.map((name) => columns[name] ?? empty)];
    for (const pair of band?.pairs ?? []) {
      for (const place of pair) this.data.push((columns[band.column] ?? empty).map((values) => values?.[place] ?? null));
    }
    if (this.plot) this.plot.setData(this.data);
    else this.#rebuild();
    this.#say(columns.epoch.length - 1);
    const values = (columns[series[0]] ?? empty).filter((value) => typeof value === "number");
    this.plotArea.setAttribute(
      "aria-label",
      `${this.description.title} from ${figure(values[0])} to ${figure(values.at(-1))} over ${columns.epoch.length} epochs`,
    );
  }

  /** Values of the newest epoch that reported them, over another axis than epochs. */
  #updateByPlace(columns) {
    const { series, x } = this.description;
    const at = columns.epoch.findLastIndex((_, index) => columns[series[0]]?.[index] && columns[x]?.[index]);
    this.root.hidden = at === -1;
    if (at === -1) return;
    const places = columns[x][at];
    const order = places.map((_, index) => index).sort((a, b) => places[a] - places[b]);
    this.data = [order.map((index) => places[index]), ...series.map((name) => order.map((index) => columns[name][at][index]))];
    if (this.plot) this.plot.setData(this.data);
    else this.#rebuild();
    this.#say(order.length - 1);
    this.plotArea.setAttribute("aria-label", `${this.description.title} at epoch ${columns.epoch[at]}, ${order.length} timesteps`);
  }

  /** A dashed line at every epoch with an alarm. */
  #markAlarms(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--bad").trim();
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.font = `${11 * devicePixelRatio}px system-ui`;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const epoch of this.alarms) {
      const left = plot.valToPos(epoch, "x", true);
      if (left < bbox.left || left > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
      const isLate = left > bbox.left + 0.75 * bbox.width; // beside the right edge the word would be cut off
      ctx.textAlign = isLate ? "right" : "left";
      ctx.fillText("alarm", left + (isLate ? -4 : 4) * devicePixelRatio, bbox.top + 10 * devicePixelRatio);
    }
    ctx.restore();
  }

  #rebuild() {
    if (!this.data) return;
    this.plot?.destroy();
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const strokes = [colour("--accent"), colour("--text")];
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 0.5 }, ticks: { show: false }, font: "11px system-ui" };
    const { series, band } = this.description;
    const bandSeries = (band?.pairs ?? []).flatMap(() => [{}, {}]).map(() => ({ stroke: "transparent", points: { show: false } }));
    const first = 1 + series.length;
    const options = {
      width: this.#width(),
      height: HEIGHT,
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: false }, y: { range: valueRange } },
      axes: [
        { ...axis, size: 26, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000] },
        { ...axis, size: 52, values: (_, ticks) => ticks.map(figure) },
      ],
      series: [
        {},
        ...series.map((_, index) => ({
          stroke: strokes[index],
          width: 2,
          dash: index ? [5, 4] : undefined,
          spanGaps: true,
          points: { show: (plot) => plot.data[0].length < 30, size: 5, fill: strokes[index] },
        })),
        ...bandSeries,
      ],
      // uPlot fills from the upper series to the lower one
      bands: (band?.pairs ?? []).map((_, index) => ({
        series: [first + 2 * index + 1, first + 2 * index],
        fill: `color-mix(in srgb, ${colour("--accent")} ${index ? 22 : 14}%, transparent)`,
      })),
      hooks: { draw: [(plot) => this.#markAlarms(plot)], setCursor: [(plot) => this.#say(plot.cursor.idx ?? this.data[0].length - 1)] },
    };
    this.plot = new uPlot(options, this.data, this.plotArea);
  }

  #say(index) {
    const { series, labels } = this.description;
    const values = series
      .map((name, place) => ({ label: labels[place], value: this.data[place + 1][index] }))
      .filter(({ value }) => typeof value === "number")
      .map(({ label, value }) => (label ? `${label} ${figure(value)}` : figure(value)));
    this.now.textContent = values.join(" · ");
  }

  #width() {
    return Math.max(160, this.plotArea.clientWidth);
  }
}
