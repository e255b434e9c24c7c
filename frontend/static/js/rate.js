// The rating page with a script: keys, taps, swipes, the next pair at once, zoom, undo, votes that survive a lost
// connection. Without it the page is a plain form.
import { VoteHistory } from "./history.js";
import { KeyMap, keyOf, wireKeyDialog } from "./keys.js";
import { Outbox } from "./outbox.js";
import { load, PairSource } from "./pairs.js";
import { Stage } from "./stage.js";
import { Visit } from "./visit.js";

const UNDO_DEPTH = 10;
const SLOW_MS = 400;
const WORDS = { left: "Left", right: "Right", tie: "Tie", both_bad: "Both bad", skip: "Skipped" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const $ = (name) => document.querySelector(`[data-${name}]`);
const controls = $("rate");
const form = document.getElementById("vote");
const undoButton = $("undo");
const dialog = $("help-dialog");
const scope = `${controls.dataset.rater}:${controls.dataset.campaign}`;

let current = null; // the pair on screen
let moving = false; // between two pairs
let stopped = !$("finish").hidden && Boolean(controls.dataset.comparison);
const keyMap = new KeyMap();
const visit = new Visit(`tastemaker-visit:${scope}`);
const source = new PairSource(controls.dataset.campaign, () => [
  ...(current ? [current.id] : []),
  ...outbox.comparisons(),
], () => announce("A pair whose image is missing was skipped.", true));
const outbox = new Outbox(scope, { onChange: showSync, renew: (comparison) => source.renew(comparison) });
const history = new VoteHistory(`tastemaker-history:${scope}`, UNDO_DEPTH);
const stage = new Stage($("stage"), { onSwipe: choose, onZoom: (text) => ($("zoom-text").textContent = text) });
const others = Number(controls.dataset.votes) - Number(controls.dataset.mine);
let mine = Number(controls.dataset.mine) + notCountedYet();
const budget = Number(controls.dataset.budget) || null;

document.documentElement.classList.add("scripted");
for (const part of [undoButton, $("sync"), $("help"), $("zoomer")]) part.hidden = false;
wire();
start();

async function start() {
  outbox.flush();
  showSync(outbox.state());
  undoButton.disabled = history.length === 0;
  const shown = controls.dataset.comparison;
  // a reload can overtake the vote: the page was rendered just before the vote arrived
  const voted = outbox.comparisons().includes(shown) || history.has(shown);
  if (shown && !voted) {
    const [left, right] = document.querySelectorAll("[data-pair] img");
    showProgress();
    current = { id: shown, left, right, shownAt: performance.now() };
    fetchAhead();
    await Promise.allSettled([left.decode(), right.decode()]);
    if (current?.id !== shown) return; // voted on already
    if (!left.naturalWidth || !right.naturalWidth) await advance(); // an image did not come: the pair is fetched again
    else if (!stopped) show(current);
  } else if (shown) {
    $("pair").hidden = true;
    await advance();
  } else {
    showFinish();
  }
}

function choose(choice, event) {
  if (!current || moving || stopped) return;
  const milliseconds = Math.round(performance.now() - current.shownAt);
  outbox.vote(current.id, choice, milliseconds);
  history.push(current);
  visit.add(milliseconds);
  mine += 1;
  undoButton.disabled = false;
  const done = `${WORDS[choice]}. `;
  announce(`${done}Pair ${mine + 1}.`);
  advance(event.timeStamp, done);
}

/** Show the next pair; `votedAt` is the moment of the vote that it follows, for the measure, `done` what is said of it. */
async function advance(votedAt, done = "") {
  moving = true;
  current = null;
  let waited = false;
  const slow = setTimeout(() => {
    waited = true;
    announce(whyWaiting(), true);
  }, SLOW_MS);
  const pair = await source.next();
  clearTimeout(slow);
  moving = false;
  if (pair) show(pair, votedAt);
  else showFinish();
  if (pair && waited) announce(`${done}Pair ${mine + 1}.`); // who cannot see it would go on waiting
  fetchAhead();
}

function whyWaiting() {
  if (navigator.onLine && !source.offline) return "Waiting for the next pair …";
  return "No connection. Your votes are kept on this device; the next pair comes when the server answers again.";
}

// `data-ahead` tells how many pairs can be shown without the network. A fill that was under way when this pair was
// taken asked for one too few, so go on for as long as there is more.
async function fetchAhead() {
  let before;
  do {
    before = source.ready.length;
    stage.area.dataset.ahead = String(before);
    await source.fill();
    stage.area.dataset.ahead = String(source.ready.length);
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
    visit.takeBack();
    mine = Math.max(0, mine - 1);
    if (current) source.unshift(current);
    stopped = false;
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

function show(pair, votedAt) {
  current = pair;
  for (const part of [$("pair"), $("zoomer"), form]) part.hidden = false;
  for (const button of form.querySelectorAll("[data-choice]")) button.hidden = false;
  $("finish").hidden = true;
  $("stop").hidden = false;
  $("message").textContent = "";
  form.elements.comparison_id.value = pair.id;
  stage.show(pair.left, pair.right);
  showProgress();
  pair.shownAt = performance.now();
  requestAnimationFrame(() => {
    pair.shownAt = performance.now();
    // the task runs after this frame is painted
    if (votedAt) setTimeout(() => performance.measure("vote-to-next", { start: votedAt, end: performance.now() }));
  });
}

/** How many votes in the outbox the server had not heard of when it counted; undone ones that it had count negative. */
function notCountedYet() {
  const counted = new Set(controls.dataset.counted.split(" "));
  const last = new Map(outbox.entries().map(({ comparison, vote }) => [comparison, Boolean(vote)]));
  return [...last].reduce((sum, [comparison, given]) => sum + Number(given) - Number(counted.has(comparison)), 0);
}

/** Nothing left, closed, or stopped by the rater: say thank you and what was done. Undo stays. */
function showFinish() {
  for (const part of [$("pair"), $("zoomer")]) part.hidden = true;
  const closed = !("active" in controls.dataset) || Boolean(source.closed);
  form.hidden = closed || history.length === 0;
  $("stop").hidden = true;
  for (const button of form.querySelectorAll("[data-choice]")) button.hidden = true;
  const panel = $("finish");
  $("message").textContent = "";
  if (stopped) {
    say("Thank you.", "Stop as long as you like; your votes count.");
  } else if (source.closed) {
    say(source.closed, mine > 0 ? "Your votes up to here count. Thank you." : "");
  } else if (mine > 0 && controls.dataset.comparison) {
    say("That is all, thank you.", "You have judged every pair that there was for you.");
  }
  const goOn = panel.querySelector("[data-go-on]");
  if (goOn) goOn.textContent = stopped ? "Go on" : "Look again";
  if ($("finish-later")) $("finish-later").hidden = stopped || Boolean(source.closed);
  $("count").textContent = String(mine - outbox.nRefused);
  $("visit-votes").textContent = String(visit.votes);
  $("visit-votes").parentElement.hidden = visit.votes === 0 || visit.votes === mine - outbox.nRefused;
  $("visit-pace").textContent = visit.pace();
  $("visit-pace").parentElement.hidden = !visit.pace();
  showProgress();
  showSync(outbox.state());
  panel.hidden = false;
  panel.focus();
}

function say(title, text) {
  $("finish-title").textContent = title;
  $("finish-text").textContent = text;
}

function stop() {
  stopped = true;
  showFinish();
}

function goOn() {
  if (!stopped || !current) return false;
  stopped = false;
  show(current);
  return true;
}

function wire() {
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", (event) => {
      event.preventDefault();
      choose(button.dataset.choice, event);
    });
  }
  undoButton.addEventListener("click", undo);
  $("help").addEventListener("click", () => dialog.showModal());
  $("stop").addEventListener("click", (event) => {
    event.preventDefault();
    stop();
  });
  $("go-on")?.addEventListener("click", (event) => {
    if (goOn()) event.preventDefault();
  });
  $("guidelines-toggle")?.addEventListener("click", (event) => {
    event.preventDefault();
    toggleGuidelines();
  });
  $("guidelines-toggle")?.addEventListener("keydown", (event) => {
    if (event.key !== " ") return; // what is announced as a button answers to Space, too
    event.preventDefault();
    toggleGuidelines();
  });
  document.addEventListener("keydown", onKey);
  wireKeyDialog(dialog, keyMap);
}

function toggleGuidelines() {
  const button = $("guidelines-toggle");
  if (!button) return;
  const panel = document.getElementById("guidelines");
  panel.hidden = !panel.hidden;
  button.setAttribute("aria-expanded", String(!panel.hidden));
  stage.fit();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || dialog.open) return;
  if (event.shiftKey && ARROWS[event.key]) {
    event.preventDefault();
    if (stage.zoomed) stage.nudge(...ARROWS[event.key]);
    return;
  }
  const action = keyMap.action(keyOf(event));
  if (!action) return;
  event.preventDefault();
  if (action.startsWith("zoom_")) {
    stage[action.slice("zoom_".length)]();
    announce(`Zoom ${$("zoom-text").textContent}`);
  } else if (event.repeat) return; // a key held down is one vote
  else if (action === "undo") undo();
  else if (action === "guidelines") toggleGuidelines();
  else if (action === "help") dialog.showModal();
  else choose(action, event);
}

function showProgress() {
  const counted = Math.max(0, mine - outbox.nRefused);
  const total = others + counted;
  const inAll = budget ? ` · ${Math.min(total, budget)} of ${budget} in all` : "";
  $("progress-text").textContent = `${counted} of yours${inAll}`;
  if (budget) $("progress").value = Math.min(total, budget);
  const pace = visit.pace();
  $("pace").textContent = pace ? `about ${pace} a pair` : "";
}

function showSync({ waiting, failing, refused, nRefused, signedOut }) {
  const sync = $("sync");
  if (signedOut) {
    sync.dataset.state = "refused";
    sync.textContent = `signed out: ${waiting} waiting on this device, sign in again to send`;
  } else if (waiting) {
    sync.dataset.state = "waiting";
    sync.textContent = `${waiting} waiting${failing || !navigator.onLine ? ", no connection" : ""}`;
  } else if (refused) {
    sync.dataset.state = "refused";
    sync.textContent = nRefused > 1 ? `${nRefused} not counted: ${refused}` : `not counted: ${refused}`;
    showProgress();
  } else {
    sync.dataset.state = "saved";
    sync.textContent = "saved";
  }
  $("finish-sync").textContent = waiting
    ? `${waiting} of your votes wait on this device; keep this page open, or come back to it, until they are sent.`
    : "All of your votes are saved.";
}

function announce(text, visible = false) {
  $("announce").textContent = text;
  if (visible) $("message").textContent = text;
}
