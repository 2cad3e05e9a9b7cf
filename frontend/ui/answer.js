// What comes back: an answer in words and bars, and as it came. All of it is written as text, never as HTML.

const PARTS = {queue: 1, decode: 2, stack: 3, forward: 4, encode: 5, rest: 5};
const MAX_SHOWN_CHARS = 20000;
const MAX_SHOWN_ROWS = 100;
const MAX_SHOWN_ERROR = 500;

export const byId = (id) => document.getElementById(id);

/** Write a text that changes, and whether it tells of a failure. */
export function say(id, text, isFailure = false) {
  const place = byId(id);
  if (place.textContent !== text) {
    place.textContent = text;
  }
  place.classList.toggle("failed", isFailure);
}

/** A bar and its legend: [[name, milliseconds]]. */
export function showSplit(id, parts) {
  const sum = parts.reduce((all, [, ms]) => all + ms, 0);
  const bar = document.createDocumentFragment();
  const legend = document.createDocumentFragment();
  for (const [name, ms] of parts) {
    const piece = bar.appendChild(document.createElement("span"));
    piece.className = `part-${PARTS[name]}`;
    piece.style.width = `${sum ? (100 * ms) / sum : 0}%`;
    const entry = legend.appendChild(document.createElement("li"));
    entry.className = piece.className;
    entry.textContent = `${name} ${ms.toFixed(ms < 10 ? 2 : 0)} ms`;
  }
  byId(id).querySelector(".bar").replaceChildren(bar);
  byId(id).querySelector("ul").replaceChildren(legend);
}

/** The error in an answer: ours, the Open Inference Protocol's, or whatever was said. */
function errorIn(answer, body) {
  const told = answer?.error ?? {};
  const {code = "", message = body.slice(0, MAX_SHOWN_ERROR)} = typeof told === "object" ? told : {message: String(told)};
  return {code, message};
}

/** Take away the answer that is shown. */
export function forget() {
  for (const id of ["facts", "split", "raw"]) {
    byId(id).hidden = true;
  }
  byId("result").replaceChildren();
}

/** Show an answer that took so many milliseconds; its error, where it is one, else null. */
export function show(reply, body, ms) {
  forget();
  let answer = null;
  try {
    answer = JSON.parse(body);
  } catch {
    // of a handler of the user's own: shown as it came
  }
  const error = reply.ok ? null : errorIn(answer, body);
  const results = error ? [] : itemsOf(answer);
  const best = results.length === 1 && isListOf(results[0], isClass) ? `: ${nameOf(results[0][0])}` : "";
  say("summary", error ? `${[reply.status, error.code].join(" ").trim()}: ${error.message}` : `Answered in ${ms.toFixed(ms < 10 ? 1 : 0)} ms${best}`, Boolean(error));
  showFacts(reply.headers, ms);
  results.forEach((result, index) => showResult(result, results.length > 1 ? `Item ${index + 1}` : ""));
  const rest = body.length > MAX_SHOWN_CHARS ? `\n… ${body.length - MAX_SHOWN_CHARS} characters more` : "";
  byId("raw").querySelector("pre").textContent = body.slice(0, MAX_SHOWN_CHARS) + rest;
  byId("raw").hidden = false;
  byId("raw").open = !byId("result").childElementCount;
  return error;
}

function showFacts(headers, ms) {
  const batch = headers.get("X-SmartBatch-Batch-Size");
  if (batch === null) {
    return; // the frontend's own answer, or another handler's
  }
  byId("batch-size").textContent = batch;
  byId("forward-size").textContent = headers.get("X-SmartBatch-Forward-Size");
  const weights = headers.get("X-SmartBatch-Weights") ?? "";
  byId("weights").textContent = weights;
  byId("weights").classList.toggle("alarm", weights.includes("NOT pretrained"));
  byId("facts").hidden = false;
  const parts = [...(headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, dur]) => [name, Number(dur)]);
  if (parts.length) {
    const known = parts.reduce((sum, [, part]) => sum + part, 0);
    showSplit("split", [...parts, ["rest", Math.max(0, ms - known)]]);
    byId("split").hidden = false;
  }
}

const isClass = (value) => value !== null && typeof value === "object" && "label" in value && "score" in value;
const isListOf = (value, test) => Array.isArray(value) && value.length > 0 && value.every(test);
const percent = (score) => `${(100 * score).toFixed(1)} %`;
const nameOf = ({label, score}) => `${label} (${percent(score)})`;

/** One entry an item: a list of classes or boxes is one item's, a list of such lists several items'. */
function itemsOf(answer) {
  const result = answer?.result ?? answer?.predictions ?? answer;
  if (isClass(result)) {
    return [[result]];
  }
  return isListOf(result, (each) => isListOf(each, isClass)) ? result : [result];
}

function showResult(result, title) {
  if (!isListOf(result, isClass)) {
    return; // numbers and text are read as they came
  }
  const place = byId("result");
  if (title) {
    place.appendChild(document.createElement("h3")).textContent = title;
  }
  place.appendChild(result.some((each) => "box" in each) ? boxes(result) : classes(result));
}

function classes(result) {
  const list = document.createElement("ol");
  for (const {label, score} of result.slice(0, MAX_SHOWN_ROWS)) {
    const row = list.appendChild(document.createElement("li"));
    row.appendChild(document.createElement("b")).textContent = label;
    row.appendChild(document.createElement("span")).textContent = percent(score);
    const share = row.appendChild(document.createElement("span"));
    share.className = "share";
    share.style.width = percent(score).replace(" ", "");
  }
  return list;
}

function boxes(result) {
  const table = document.createElement("table");
  const row = (cells, tag) => {
    const made = table.appendChild(document.createElement("tr"));
    cells.forEach((cell) => (made.appendChild(document.createElement(tag)).textContent = cell));
  };
  row(["Class", "Score", "Box: left, top, right, bottom"], "th");
  for (const {label, score, box} of result.slice(0, MAX_SHOWN_ROWS)) {
    row([label, percent(score), (box ?? []).map((side) => side.toFixed(1)).join(", ")], "td");
  }
  return table;
}
