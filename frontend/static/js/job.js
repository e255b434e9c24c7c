// A running job as it goes on: history by fetch, then the event stream from where the page was rendered.
import { Chart, FINETUNE_CHARTS, chartsOf, heldOutCharts } from "./charts.js";
import { wireScrubber } from "./scrubber.js";

const MOST_LOG_LINES = 500;
const MOST_POINTS = 400;

const root = document.querySelector("[data-job]");
const id = root.dataset.job;
const part = (name) => root.querySelector(`[data-${name}]`);
const charts = new Map();
let columns = { epoch: [] };
const alarms = JSON.parse(part("charts")?.dataset.alarmEpochs ?? "[]");

if (part("charts")) loadMetrics();
if (root.dataset.status === "queued" || root.dataset.status === "running") follow();

async function loadMetrics() {
  const response = await fetch(`/api/v1/jobs/${id}/metrics?points=${MOST_POINTS}`);
  if (!response.ok) return;
  columns = await response.json();
  draw();
}

function draw() {
  if (columns.epoch.length === 0) return;
  const isFinetune = part("charts").dataset.kind === "finetune";
  const wanted = isFinetune ? [...FINETUNE_CHARTS, ...heldOutCharts(columns)] : chartsOf(columns);
  for (const description of wanted) {
    if (!charts.has(description.title)) charts.set(description.title, new Chart(part("charts"), description));
    charts.get(description.title).update(columns, alarms);
  }
  part("no-metrics")?.remove();
}

function follow() {
  const stream = new EventSource(`/api/v1/jobs/${id}/events?after=${root.dataset.seq}`);
  part("reload")?.remove();
  const handlers = {
    progress: showProgress,
    log: ({ message }) => appendLog(message),
    metrics: addRow,
    checkpoint: () => refresh("grid"),
    alarm: ({ epoch }) => {
      alarms.push(epoch);
      draw();
      refresh("alarms");
    },
    worker: () => refresh("worker"),
    status: ({ status }) => {
      if (status !== root.dataset.status) {
        stream.close();
        location.reload();
      }
    },
  };
  for (const [kind, handle] of Object.entries(handlers)) {
    stream.addEventListener(kind, (event) => handle(JSON.parse(event.data).payload));
  }
  const connection = part("connection");
  stream.addEventListener("open", () => {
    connection.hidden = true;
  });
  stream.addEventListener("error", () => {
    connection.hidden = false;
    connection.textContent = "The connection was lost; the job goes on, and this page follows again by itself.";
  });
  addEventListener("pagehide", () => stream.close());
}

function showProgress({ progress, stage, eta_seconds: eta }) {
  part("progress").value = progress;
  part("percent").textContent = `${Math.round(progress * 100)} %`;
  part("stage").textContent = stage;
  part("eta").textContent = eta === null || eta === undefined ? "time left not known yet" : `${duration(eta)} left`;
}

function appendLog(message) {
  const log = part("log");
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  log.append(`${message}\n`);
  while (log.childNodes.length > MOST_LOG_LINES) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function addRow(row) {
  const at = columns.epoch.indexOf(row.epoch);
  const place = at === -1 ? columns.epoch.length : at; // a resumed job reports an epoch again
  for (const name of new Set([...Object.keys(columns), ...Object.keys(row)])) {
    columns[name] ??= columns.epoch.map(() => null);
    columns[name][place] = row[name] ?? null;
  }
  if (columns.epoch.length > 2 * MOST_POINTS) loadMetrics();
  else draw();
}

async function refresh(name) {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.querySelector(`[data-${name}]`);
  if (!fresh || !part(name)) return;
  part(name).replaceWith(fresh);
  if (name === "grid") wireScrubber();
}

function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) return `${total} s`;
  const minutes = Math.floor(total / 60);
  if (minutes < 60) return minutes < 10 ? `${minutes} min ${total % 60} s` : `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
