// The learning curves of several runs in one chart each, in the colours of their checkpoints.
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { figure } from "./charts.js";

const HEIGHT = 208;
const CURVES = [
  { column: "reward_mean", title: "Reward" },
  { column: "eval_reward_mean", title: "Reward on fixed seeds" },
  { column: "kl_nats", title: "KL to where the run began", unit: "nats" },
  { column: "diversity", title: "Diversity" },
];
const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3], [12, 4], [4, 8]];

const root = document.querySelector("[data-overlay]");
const runs = [...root.querySelectorAll("[data-run]")].map((mark, index) => ({
  name: mark.dataset.name,
  job: mark.dataset.run,
  colour: getComputedStyle(mark).getPropertyValue("--ck").trim(),
  mark: mark.className,
  dash: DASHES[index % DASHES.length],
}));

await Promise.all(
  runs.map(async (run) => {
    const response = await fetch(`/api/v1/jobs/${run.job}/metrics`);
    run.columns = response.ok ? await response.json() : { epoch: [] };
  }),
);
for (const curve of CURVES) draw(curve);

function draw({ column, title, unit }) {
  const shown = runs.filter((run) => run.columns[column]?.some((value) => typeof value === "number"));
  if (shown.length === 0) return;
  const epochs = [...new Set(shown.flatMap((run) => run.columns.epoch))].sort((a, b) => a - b);
  const data = [epochs, ...shown.map((run) => {
    const by = new Map(run.columns.epoch.map((epoch, place) => [epoch, run.columns[column][place]]));
    return epochs.map((epoch) => by.get(epoch) ?? null);
  })];

  const chart = document.createElement("figure");
  chart.className = "chart";
  const heading = document.createElement("h3");
  heading.textContent = unit ? `${title} (${unit})` : title;
  const legend = document.createElement("ul");
  legend.className = "legend";
  const now = shown.map((run) => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.className = `chip ${run.mark}`;
    name.textContent = run.name;
    const value = document.createElement("strong");
    item.append(name, " ", value);
    legend.append(item);
    return value;
  });
  const area = document.createElement("div");
  area.className = "plot";
  area.setAttribute("role", "img");
  const last = (values) => values.filter((value) => typeof value === "number").at(-1);
  area.setAttribute("aria-label", `${title}: ${shown.map((run, index) => `${run.name} ends at ${figure(last(data[index + 1]))}`).join(", ")}`);
  chart.append(heading, legend, area);
  root.append(chart);

  const say = (place) => {
    now.forEach((value, index) => {
      const here = place === null || place === undefined ? last(data[index + 1]) : data[index + 1][place];
      value.textContent = figure(here);
    });
  };
  let plot = null;
  const build = () => {
    plot?.destroy();
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 0.5 }, ticks: { show: false }, font: "11px system-ui" };
    plot = new uPlot({
      width: Math.max(160, area.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: false } },
      axes: [
        { ...axis, size: 26, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000] },
        { ...axis, size: 52, values: (_, ticks) => ticks.map(figure) },
      ],
      series: [{}, ...shown.map((run) => ({
        stroke: run.colour, width: 2, dash: run.dash, spanGaps: true,
        points: { show: epochs.length < 30, size: 5, fill: run.colour },
      }))],
      hooks: { setCursor: [(drawn) => say(drawn.cursor.idx)] },
    }, data, area);
  };
  build();
  say(null);
  new ResizeObserver(() => plot.setSize({ width: Math.max(160, area.clientWidth), height: HEIGHT })).observe(chart);
  document.addEventListener("themechange", build);
}
