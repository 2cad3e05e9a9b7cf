// The page of a SmartBatch server: it sends one request, shows what comes back, and watches the server meanwhile.
// It asks the inference port alone, by paths relative to its own.

import {byId, forget, say, show, showSplit} from "./answer.js";
import {METRICS, figuresOf, parse, total} from "./figures.js";

/** By the ends of files' names, as contract/media_types.py has them. */
const MEDIA_TYPES = {
  json: "application/json",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  png: "image/png",
  webp: "image/webp",
  npy: "application/x-npy",
  npz: "application/x-npz",
  msgpack: "application/msgpack",
  safetensors: "application/x-safetensors",
  wav: "audio/wav",
  flac: "audio/flac",
  txt: "text/plain",
};
const LOOK_MS = 2000;
const WINDOW_MS = 30000;
const KEPT_POINTS = 60;
const MAX_EXAMPLE_NUMBERS = 4096;
const PICTURE_PIXELS = 320;
const TOKEN = "smartbatch-token";

const looks = []; // {at, samples}, the oldest first
const trails = new Map(); // by model, {figure: [numbers]}
let chosenFile = null;
let sending = null; // of a request under way, what ends it
let shownExample = null;

// What the server is asked

function authorised(headers, token = sessionStorage.getItem(TOKEN)) {
  return token ? {...headers, Authorization: `Bearer ${token}`} : headers;
}

/** Of a token that is missing, or that the server refused; no matter where another has been typed since it was sent. */
function askToken(refused) {
  if (refused !== sessionStorage.getItem(TOKEN)) {
    return;
  }
  sessionStorage.removeItem(TOKEN);
  byId("token-form").hidden = false;
  say("connection", "waiting for a token");
}

// The server, live

const number = (value) => (value === null ? "–" : value.toFixed(1));
const seconds = (value) => (value === null ? "–" : value < 1 ? `${(value * 1000).toPrecision(3)} ms` : `${value.toPrecision(3)} s`);

function showFigures(model) {
  const now = looks.at(-1);
  const figures = figuresOf(model, looks[0], now);
  const texts = {
    queue: `${figures.queue} of ${figures.capacity}`,
    workers: `${figures.ready} of ${figures.workers}`,
    rate: number(figures.rate),
    failures: number(figures.failures),
    batch: number(figures.batch),
    forward: number(figures.forward),
    p50: seconds(figures.p50),
    p95: seconds(figures.p95),
  };
  for (const [name, text] of Object.entries(texts)) {
    document.querySelector(`[data-figure=${name}]`).textContent = text;
  }
  const trail = trails.get(model) ?? {};
  trails.set(model, trail);
  for (const svg of document.querySelectorAll("[data-line]")) {
    const points = (trail[svg.dataset.line] ??= []);
    points.push(figures[svg.dataset.line] ?? 0);
    points.splice(0, points.length - KEPT_POINTS);
    const most = Math.max(...points) || 1;
    const spelled = points.map((point, index) => `${(index * 100) / (KEPT_POINTS - 1)},${23 - (22 * point) / most}`);
    svg.firstElementChild.setAttribute("points", spelled.join(" "));
  }
  showSplit("stages", figures.stages);
  byId("window").textContent = Math.round((now.at - looks[0].at) / 1000);
  byId("random").hidden = !total(now.samples, "smartbatch_model_weights_random", {model});
}

function showModels(models) {
  const choice = byId("model");
  if (models.join("\n") !== [...choice.options].map((option) => option.value).join("\n")) {
    const before = choice.value;
    choice.replaceChildren(...models.map((model) => new Option(model, model, false, model === before)));
    if (choice.value !== before) {
      askExample();
    }
  }
  choice.disabled = !models.length;
  byId("send").disabled = !models.length || sending !== null;
}

async function look() {
  const names = METRICS.map((name) => `name[]=${name}`).join("&");
  const token = sessionStorage.getItem(TOKEN);
  const reply = await fetch(`metrics?${names}`, {headers: authorised({}, token), cache: "no-store"});
  const text = await reply.text();
  if (!reply.ok) {
    if (text.includes('"token_refused"')) {
      askToken(token);
    } else {
      say("connection", `no figures: the server answers ${reply.status}`, true);
      const told = await (await fetch("../readyz")).json();
      showModels(Object.keys(told.models ?? {}).sort());
    }
    return;
  }
  byId("token-form").hidden = true;
  const samples = parse(text);
  const counted = (of) => total(of, "smartbatch_http_requests_total", {});
  if (looks.length && counted(samples) < counted(looks.at(-1).samples)) {
    looks.length = 0; // another server's
  }
  looks.push({at: performance.now(), samples});
  while (looks.length > 2 && looks.at(-1).at - looks[0].at > WINDOW_MS) {
    looks.shift();
  }
  const withWorkers = samples.filter(({name}) => name === "smartbatch_workers").map(({labels}) => labels.model);
  showModels([...new Set(withWorkers)].sort());
  say("connection", "live");
  if (byId("model").value) {
    showFigures(byId("model").value);
  }
}

let nextLook = 0; // the timer
async function keepLooking() {
  clearTimeout(nextLook);
  if (document.visibilityState === "visible") {
    await look().catch(() => say("connection", "the server does not answer", true));
    clearTimeout(nextLook);
    nextLook = setTimeout(keepLooking, LOOK_MS);
  }
}

// What is sent

async function choose(file, numDropped = 1) {
  chosenFile = file;
  const picture = byId("picture");
  picture.hidden = true;
  if (!file) {
    say("chosen", "");
    return;
  }
  const type = typeOf(file) || "type unknown: the server looks at its first bytes";
  const others = numDropped > 1 ? `; the first of ${numDropped} files` : "";
  say("chosen", `${file.name || "pasted"}, ${type}, ${(file.size / 1000).toFixed(1)} kB${others}`);
  try {
    const bitmap = await createImageBitmap(file);
    if (chosenFile === file) {
      const scale = Math.min(1, PICTURE_PIXELS / Math.max(bitmap.width, bitmap.height));
      picture.width = Math.max(1, bitmap.width * scale);
      picture.height = Math.max(1, bitmap.height * scale);
      picture.getContext("2d").drawImage(bitmap, 0, 0, picture.width, picture.height);
      picture.hidden = false;
    }
    bitmap.close();
  } catch {
    // no picture, or one that the browser cannot show: it is sent all the same
  }
}

/** A text to be sent in place of a file: of both, what was given last. */
function write(text) {
  byId("text").value = text;
  byId("file").value = "";
  choose(null);
}

/** What was dropped or pasted: files anywhere, text where no field takes it by itself. */
function isForPage(event, given) {
  return given.types.includes("Files") || !event.target.closest?.("input, textarea");
}

function take(given) {
  if (given.files.length) {
    choose(given.files[0], given.files.length);
  } else if (given.getData("text/plain")) {
    write(given.getData("text/plain"));
  }
}

function typeOf(file) {
  return MEDIA_TYPES[file.name.split(".").at(-1).toLowerCase()] ?? file.type;
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return /^\s*[{[]/.test(text); // meant to be: the server says what is wrong with it
  }
}

/** A body for the model's inputs, as GET /v2/models/<model> tells them; null where there is none of a size to read. */
function exampleOf(inputs) {
  let numbers = 0;
  const fill = (shape, datatype) => {
    if (shape.length) {
      return Array.from({length: shape[0] < 0 ? 2 : Math.min(shape[0], MAX_EXAMPLE_NUMBERS)}, () => fill(shape.slice(1), datatype));
    }
    if (++numbers > MAX_EXAMPLE_NUMBERS) {
      throw new RangeError("too many numbers");
    }
    return datatype === "BOOL" ? true : datatype.startsWith("FP") || datatype === "BF16" ? 0.5 : 1;
  };
  try {
    const made = Object.fromEntries(inputs.map(({name, datatype, shape}) => [name, fill(shape.slice(1), datatype)]));
    return inputs.length === 1 && "data" in made ? {data: made.data} : {inputs: made};
  } catch {
    return null;
  }
}

async function askExample() {
  const model = byId("model").value;
  shownExample = null;
  try {
    const reply = await fetch(`../v2/models/${encodeURIComponent(model)}`);
    const told = reply.ok ? await reply.json() : {};
    if (model === byId("model").value && told.inputs?.length) {
      shownExample = exampleOf(told.inputs);
    }
  } catch {
    // the next look says that the server does not answer
  }
  byId("example").disabled = shownExample === null;
}

async function send() {
  const text = byId("text").value;
  if (!chosenFile && !text.trim()) {
    say("summary", "There is nothing to send: choose a file, or write text or JSON.", true);
    return;
  }
  const type = chosenFile ? typeOf(chosenFile) : isJson(text) ? "application/json" : "text/plain";
  const output = byId("output").value;
  const token = sessionStorage.getItem(TOKEN);
  const headers = authorised({"X-SmartBatch-Timing": "on"}, token);
  if (type) {
    headers["Content-Type"] = type;
  }
  if (output) {
    headers["X-SmartBatch-Output"] = output;
  }
  const model = byId("model").value;
  sending = new AbortController();
  byId("send").disabled = true;
  say("summary", `Asking ${model} …`);
  const began = performance.now();
  try {
    const reply = await fetch(`../predictions/${encodeURIComponent(model)}`, {method: "POST", headers, body: chosenFile ?? text, signal: sending.signal});
    const body = await reply.text();
    const error = show(reply, body, performance.now() - began);
    if (error?.code === "token_refused") {
      askToken(token);
      byId("token").focus();
    }
  } catch (error) {
    forget();
    say("summary", error.name === "AbortError" ? "Given up." : `No answer: ${error.message}`, true);
  } finally {
    sending = null;
    byId("send").disabled = false;
  }
  keepLooking();
}

// What people do

byId("file").addEventListener("change", (event) => choose(event.target.files[0] ?? null));
byId("model").addEventListener("change", () => {
  askExample();
  if (looks.length) {
    showFigures(byId("model").value);
  }
});
byId("example").addEventListener("click", () => write(JSON.stringify(shownExample)));
byId("clear").addEventListener("click", () => {
  sending?.abort();
  byId("ask").reset();
  choose(null);
  forget();
  say("summary", "Nothing has been sent yet.");
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("text").addEventListener("input", () => {
  if (chosenFile && byId("text").value) {
    write(byId("text").value);
  }
});
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !byId("send").disabled) {
    send();
  }
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  keepLooking();
});
document.addEventListener("paste", (event) => {
  if (isForPage(event, event.clipboardData)) {
    event.preventDefault();
    take(event.clipboardData);
  }
});
for (const [type, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(type, (event) => {
    if (!isForPage(event, event.dataTransfer)) {
      return;
    }
    event.preventDefault();
    document.body.classList.toggle("dropping", isOver);
    if (type === "drop") {
      take(event.dataTransfer);
    }
  });
}
document.addEventListener("visibilitychange", keepLooking);

fetch("../v2")
  .then((reply) => reply.json())
  .then(({version}) => say("version", version))
  .catch(() => {});
keepLooking();
