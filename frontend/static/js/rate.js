// The rating page with a script: keys, taps, swipes, the next pair at once, undo, votes that survive a lost connection.
// Without it the page is a plain form.
import { VoteHistory } from "./history.js";
import { Outbox } from "./outbox.js";
import { load, PairSource } from "./pairs.js";

const UNDO_DEPTH = 10;
const SWIPE_PX = 60;
const LARGEST_PX = 640;
const PIXEL_ART_UP_TO = 128;
const WORDS = { left: "Left", right: "Right", tie: "Tie", both_bad: "Both bad", skip: "Skipped" };
const KEYS = {
  ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", t: "tie", b: "both_bad", s: "skip",
};

const $ = (name) => document.querySelector(`[data-${name}]`);
const controls = $("rate");
const stage = $("stage");
const form = document.getElementById("vote");
const undoButton = $("undo");
const scope = `${controls.dataset.rater}:${controls.dataset.campaign}`;

let current = null;
let moving = false;
const outbox = new Outbox(scope, showSync);
const source = new PairSource(controls.dataset.campaign, () => [
  ...(current ? [current.id] : []),
  ...outbox.comparisons(),
]);
const history = new VoteHistory(`tastemaker-history:${scope}`, UNDO_DEPTH);
let mine = Number(controls.dataset.mine);
const others = Number(controls.dataset.votes) - mine;
const budget = Number(controls.dataset.budget) || null;
const started = { at: performance.now(), votes: 0 };

document.documentElement.classList.add("scripted");
undoButton.hidden = false;
$("sync").hidden = false;
$("help").hidden = false;
wire();
start();

async function start() {
  outbox.flush();
  showSync({ waiting: outbox.entries().length, refused: null, signedOut: false });
  const shown = controls.dataset.comparison;
  const pair = document.querySelector("[data-pair]");
  // a reload can overtake the vote: the page was rendered just before the vote arrived
  const voted = outbox.comparisons().includes(shown) || history.has(shown);
  if (shown && !voted) {
    const [left, right] = pair.querySelectorAll("img");
    show({ id: shown, left, right });
    fetchAhead();
  } else if (shown) {
    pair.hidden = true;
    await advance();
  }
  undoButton.disabled = history.length === 0;
}

function choose(choice) {
  if (!current || moving) return;
  performance.mark("vote");
  outbox.vote(current.id, choice, Math.round(performance.now() - current.shownAt));
  history.push(current);
  mine += 1;
  started.votes += 1;
  undoButton.disabled = false;
  announce(`${WORDS[choice]}.`);
  advance();
}

async function advance() {
  moving = true;
  current = null;
  const slow = setTimeout(() => announce("Waiting for the next pair …", true), 400);
  const pair = await source.next();
  clearTimeout(slow);
  moving = false;
  if (pair) show(pair);
  else finish();
  fetchAhead();
}

// `data-ahead` tells how many pairs can be shown without the network. A fill that was under way when this pair was
// taken asked for one too few, so go on for as long as there is more.
async function fetchAhead() {
  let before;
  do {
    before = source.ready.length;
    stage.dataset.ahead = String(before);
    await source.fill();
    stage.dataset.ahead = String(source.ready.length);
  } while (source.ready.length > before);
}

async function undo() {
  if (moving || history.length === 0) return;
  moving = true;
  const { id, pair } = history.pop();
  undoButton.disabled = history.length === 0;
  try {
    const earlier = pair ?? (await load(id, `/api/v1/comparisons/${id}/left`, `/api/v1/comparisons/${id}/right`));
    outbox.undo(id);
    mine = Math.max(0, mine - 1);
    started.votes = Math.max(0, started.votes - 1);
    if (current) source.unshift(current);
    show(earlier);
    announce("Vote taken back; choose again.", true);
  } catch {
    history.restore({ id, pair });
    undoButton.disabled = false;
    announce("That pair cannot be fetched without a connection; try undo again later.", true);
  } finally {
    moving = false;
  }
}

function show(pair) {
  const buttons = document.querySelectorAll("[data-pair] .choice");
  buttons[0].replaceChildren(pair.left);
  buttons[1].replaceChildren(pair.right);
  $("pair").hidden = false;
  form.hidden = false;
  $("finish").hidden = true;
  form.elements.comparison_id.value = pair.id;
  current = pair;
  fit();
  showProgress();
  requestAnimationFrame(() => {
    pair.shownAt = performance.now();
    if (performance.getEntriesByName("vote").length > 0) {
      performance.measure("vote-to-next", "vote");
      performance.clearMarks("vote");
    }
  });
  pair.shownAt = performance.now();
}

function finish() {
  const pair = $("pair");
  if (pair) pair.hidden = true;
  form.hidden = false; // for undo, the only button that stays
  for (const button of form.querySelectorAll("[data-choice]")) button.hidden = true;
  const panel = $("finish");
  panel.hidden = false;
  if (source.closed) panel.querySelector("h2").textContent = source.closed;
  else if (mine > 0) panel.querySelector("h2").textContent = "That was every pair for now.";
  $("count").textContent = String(mine);
  showProgress();
  panel.focus();
}

// Whole factors in device pixels, so that every pixel of a small sample is the same square on any screen.
function fit() {
  if (!current) return;
  for (const button of form.querySelectorAll("[data-choice]")) button.hidden = false;
  const style = getComputedStyle(stage);
  const gap = parseFloat(getComputedStyle($("pair")).columnGap);
  const wide = (stage.clientWidth - parseFloat(style.paddingLeft) * 2 - gap) / 2;
  const high = stage.clientHeight - parseFloat(style.paddingTop) * 2;
  const room = Math.max(64, Math.min(wide, high, LARGEST_PX));
  for (const image of [current.left, current.right]) {
    const factor = Math.floor((room * devicePixelRatio) / image.naturalWidth);
    const size = factor >= 1 ? (factor * image.naturalWidth) / devicePixelRatio : room;
    image.style.width = `${size}px`;
    image.style.height = `${(size * image.naturalHeight) / image.naturalWidth}px`;
    image.classList.toggle("pixels", image.naturalWidth <= PIXEL_ART_UP_TO);
  }
}

function wire() {
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", (event) => {
      event.preventDefault();
      choose(button.dataset.choice);
    });
  }
  undoButton.addEventListener("click", undo);
  $("help").addEventListener("click", () => $("help-dialog").showModal());
  const guidelines = $("guidelines-toggle");
  guidelines?.addEventListener("click", (event) => {
    event.preventDefault();
    const panel = document.getElementById("guidelines");
    panel.hidden = !panel.hidden;
    guidelines.setAttribute("aria-expanded", String(!panel.hidden));
    fit();
  });
  document.addEventListener("keydown", onKey);
  addEventListener("resize", fit);
  wireSwipe();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help-dialog").open) return;
  const choice = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (choice) {
    event.preventDefault();
    if (!event.repeat) choose(choice); // a key held down is one vote
  } else if (event.key === "u" || event.key === "Backspace") {
    event.preventDefault();
    undo();
  } else if (event.key === "?") {
    $("help-dialog").showModal();
  }
}

function wireSwipe() {
  let from = null;
  let swiped = false;
  stage.addEventListener("touchstart", (event) => {
    from = event.touches.length === 1 ? { x: event.touches[0].clientX, y: event.touches[0].clientY } : null;
    swiped = false;
  }, { passive: true });
  stage.addEventListener("touchend", (event) => {
    if (!from) return;
    const dx = event.changedTouches[0].clientX - from.x;
    const dy = event.changedTouches[0].clientY - from.y;
    from = null;
    if (Math.abs(dx) < SWIPE_PX || Math.abs(dx) < 2 * Math.abs(dy)) return;
    swiped = true;
    choose(dx < 0 ? "left" : "right");
  }, { passive: true });
  stage.addEventListener("click", (event) => {
    if (swiped) {
      event.preventDefault();
      event.stopPropagation();
    }
    swiped = false;
  }, { capture: true });
}

function showProgress() {
  const total = others + mine;
  $("progress-text").textContent = `${mine} of yours${budget ? ` · ${Math.min(total, budget)} of ${budget} in all` : ""}`;
  if (budget) $("progress").value = Math.min(total, budget);
  if (started.votes >= 3) {
    const seconds = (performance.now() - started.at) / 1000 / started.votes;
    $("pace").textContent = `about ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s a pair`;
  }
}

function showSync({ waiting, refused, signedOut }) {
  const sync = $("sync");
  if (signedOut) {
    sync.dataset.state = "refused";
    sync.textContent = `signed out: ${waiting} waiting on this device, sign in again to send`;
  } else if (waiting) {
    sync.dataset.state = "waiting";
    sync.textContent = `${waiting} waiting`;
  } else if (refused) {
    sync.dataset.state = "refused";
    sync.textContent = `not counted: ${refused}`;
  } else {
    sync.dataset.state = "saved";
    sync.textContent = "saved";
  }
}

function announce(text, visible = false) {
  $("announce").textContent = text;
  $("message").textContent = visible ? text : "";
}
