// The page: it shows the answers of the server. Only the server decides where a patch begins.

const $ = (id) => document.getElementById(id);
const encoder = new TextEncoder();
const lenient = new TextDecoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const SHOWN = 4000; // maximum number of bytes to draw; more bytes make browsers slow
const LINKED = 2000; // maximum number of bytes of a text in the address

const SAMPLES = {
  English: "Daenerys Targaryen is in Game of Thrones, a fantasy epic by George R.R. Martin.",
  Русский: "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
  中文: "道可道，非常道。名可名，非常名。",
  العربية: "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
  हिन्दी: "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
  code: "def patches(text):\n    for word in text.split():\n        yield word.encode()\n",
  "380/381": "380 + 1 = 381, and 381 - 1 = 380.",
  strawberry: "How many r's are there in strawberry? s-t-r-a-w-b-e-r-r-y",
};

const state = {
  bytes: new Uint8Array(), // the text; the text box shows its decoding
  view: null, // the last answer of /v1/patches
  tokens: null, // name of a tokenizer of the server
  threshold: null, // in bits; null for the model's own
  from: null, // byte position at which the generated part begins
  writing: null, // AbortController of the running generation
  cursor: null, // position of the byte selected by the keyboard
};

// ------------------------------------------------------------------------------------------------------------- server

async function ask(path, body, signal) {
  const key = sessionStorage.getItem("key");
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const answer = await fetch(path, { ...options, headers, signal });
  $("key").hidden = answer.status !== 401;
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error?.message ?? `the server answered ${answer.status}`);
  return answer;
}

// A problem is shown until the same kind of request succeeds: new patches do not hide why generation failed.
const problems = {};
function complain(what, error) {
  if (error?.name === "AbortError") return;
  problems[what] = error?.message;
  const told = Object.values(problems).filter(Boolean).join("; ");
  $("problem").textContent = told;
  $("problem").hidden = !told;
}

// One request at a time. If the state changes during a request, another request with the newest state follows.
let asking = false;
let again = false;
async function patch() {
  if (asking) return void (again = true);
  asking = true;
  try {
    const bytes = state.bytes;
    const body = { model: $("model").value || undefined, input_b64: to64(bytes), compare: state.writing === null };
    if (state.tokens && body.compare) body.tokens = state.tokens;
    if (state.threshold !== null) body.threshold_bits = state.threshold;
    const view = await (await ask("/v1/patches", body)).json();
    state.view = { ...view, data: bytes };
    complain("patches", null);
    draw();
  } catch (error) {
    complain("patches", error);
  }
  asking = false;
  if (again) {
    again = false;
    patch();
  }
}

function later(work, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}
const patchSoon = later(patch, 60);

// -------------------------------------------------------------------------------------------------------------- bytes

function to64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

const from64 = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

// The cells to draw: visible characters (graphemes), divided if a patch begins inside; every invalid byte is a cell.
function cells(bytes, starts) {
  const drawn = [];
  const segmenter = new Intl.Segmenter();
  let run = "", begin = 0;
  const flush = () => {
    let at = begin;
    for (const { segment } of segmenter.segment(run)) {
      let text = "", first = at;
      for (const char of segment) {
        if (text && starts.has(at)) drawn.push({ text, start: first, end: at }), (text = ""), (first = at);
        text += char;
        at += encoder.encode(char).length;
      }
      drawn.push({ text, start: first, end: at });
    }
    run = "";
  };
  for (let at = 0; at < bytes.length; ) {
    const size = bytes[at] < 0xc0 ? 1 : bytes[at] < 0xe0 ? 2 : bytes[at] < 0xf0 ? 3 : 4;
    try {
      if (!run) begin = at;
      run += strict.decode(bytes.subarray(at, at + size));
      at += size;
    } catch {
      if (run) flush();
      drawn.push({ text: "\ufffd", start: at, end: at + 1, hex: hex(bytes[at]) });
      at += 1;
    }
  }
  flush();
  return drawn;
}

const hex = (byte) => byte.toString(16).padStart(2, "0");

// ------------------------------------------------------------------------------------------------------------- figure

function node(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw() {
  const { view } = state;
  const bytes = view.data.subarray(0, SHOWN);
  const patches = view.patches.filter((patch) => patch.start < bytes.length);
  const owner = new Map(patches.map((patch, index) => [patch.start, index]));
  const quilt = $("quilt");
  scale(view);
  const all = cells(bytes, owner);
  const made = document.createDocumentFragment();
  let next = 0, place = -1;
  patches.forEach((patch, index) => {
    const span = node("span", "patch");
    span.dataset.patch = index;
    const end = patch.start + patch.length;
    for (; next < all.length && all[next].start < end; next++) {
      const shown = cell(all[next], view, owner, place);
      place = shown.place;
      shown.element.classList.toggle("written", state.from !== null && all[next].start >= state.from);
      shown.element.classList.toggle("open", state.writing !== null && index === patches.length - 1);
      span.append(shown.element);
      if (all[next].text.endsWith("\n")) span.append(node("br"));
    }
    made.append(span);
  });
  const marks = view.entropy_bits.length ? [node("div", "top", `${view.most} bits`)] : [];
  if (view.threshold_bits !== null) marks.push(node("div", "grip", view.threshold_bits.toFixed(2)));
  quilt.dir = direction(bytes);
  quilt.replaceChildren(...marks, made);
  mark(state.cursor);
  tell();
  compare();
}

// The element of a character. It has an <i> for each byte, with the entropy of the byte and the colour of its patch.
function cell({ text, start, end, hex }, view, owner, place) {
  const element = node("span", "cell");
  for (let at = start; at < end; at++) {
    const opens = owner.has(at);
    if (opens) place = owner.get(at);
    const column = node("i", level(view, view.patches[place]));
    column.classList.toggle("opens", opens && at > 0);
    column.classList.toggle("closes", owner.has(at + 1));
    column.dataset.byte = at;
    column.style.setProperty("--e", Math.max(0, Math.min(view.heights[at] ?? 0, view.most)));
    element.append(column);
  }
  const glyph = node("span", hex ? "glyph raw" : "glyph", text);
  const sign = hex ?? { " ": "·", "\n": "↵", "\t": "→", "\r\n": "↵" }[text] ?? (/^\p{C}$/u.test(text) ? "¤" : null);
  if (sign !== null) glyph.dataset.sign = sign;
  join(glyph, text, view, start, end);
  element.append(glyph);
  return { element, place };
}

// Arabic letters keep the joined form that they have in the word.
const ARABIC = /^\p{Script=Arabic}\p{M}*$/u;
const UNJOINED = /^[اأإآٱدذرزژوؤةىء]/u;
function join(glyph, text, { data }, start, end) {
  if (!ARABIC.test(text)) return;
  const before = lenient.decode(data.subarray(Math.max(0, start - 2), start));
  const after = lenient.decode(data.subarray(end, end + 2));
  glyph.classList.toggle("joined-before", ARABIC.test(before) && !UNJOINED.test(before));
  glyph.classList.toggle("joined-after", ARABIC.test(after) && !UNJOINED.test(text));
}

function direction(bytes) {
  const strong = /\p{L}/u.exec(lenient.decode(bytes))?.[0] ?? "";
  return /[\p{Script=Arabic}\p{Script=Hebrew}]/u.test(strong) ? "rtl" : "ltr";
}

function level(view, patch) {
  const bits = view.entropy_bits[patch.start];
  return patch.start === 0 || bits === undefined ? "n" : `c${Math.max(0, Math.min(6, Math.floor(bits)))}`;
}

function scale(view) {
  const limit = view.threshold_bits;
  view.heights = view.kind === "budget" ? sums(view) : view.entropy_bits;
  const highest = view.kind === "budget" ? 2 * view.model_threshold_bits : Math.max(0, ...view.entropy_bits);
  view.most = Math.max(4, 2 * Math.ceil(highest / 2));
  const { style, classList } = $("quilt");
  style.setProperty("--max", view.most);
  classList.toggle("lined", limit !== null);
  const slider = $("threshold");
  slider.disabled = limit === null;
  slider.max = view.kind === "budget" ? view.most : Math.max(8, Math.ceil((view.model_threshold_bits ?? 0) * 2));
  if (limit !== null) show(limit);
}

// For the rule `budget`: at each byte, the sum of the entropies of its patch so far.
function sums({ entropy_bits, patches }) {
  return patches.flatMap(({ start, length }) => {
    let sum = 0;
    return entropy_bits.slice(start, start + length).map((bits) => (sum += bits));
  });
}

function show(bits) {
  $("quilt").style.setProperty("--threshold", Math.min(bits, state.view?.most ?? 8));
  $("threshold").value = bits;
  $("bits").textContent = `${bits.toFixed(2)} bits`;
  const grip = document.querySelector(".grip");
  if (grip) grip.textContent = bits.toFixed(2);
}

function tell() {
  const { view } = state;
  const count = view.patches.length;
  $("bytes").textContent = view.bytes.toLocaleString("en");
  $("characters").textContent = [...new Intl.Segmenter().segment(lenient.decode(view.data))].length.toLocaleString("en");
  $("patches").textContent = count.toLocaleString("en");
  $("mean").textContent = `${view.mean_patch_bytes.toFixed(2)} bytes`;
  $("saved").textContent = view.bytes ? `${Math.round(100 * (1 - count / view.bytes))} %` : "0 %";
  const cut = view.bytes > SHOWN ? `; the first ${SHOWN} bytes are drawn` : "";
  const sum = view.kind === "budget" ? "; bars add up within a patch" : "";
  $("kind").textContent = `rule: ${view.kind}${sum}${cut}`;
}

// Select a byte and describe it.
function mark(at) {
  document.querySelector(".here")?.classList.remove("here");
  const { view } = state;
  if (at === null || !view || at >= Math.min(view.bytes, SHOWN)) return;
  state.cursor = at;
  const column = document.querySelector(`[data-byte="${at}"]`);
  column.classList.add("here");
  const own = view.patches.findLast((patch) => patch.start <= at);
  const text = column.parentElement.querySelector(".glyph").textContent;
  const points = [...text].map((char) => `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`).join(" ");
  const entropy = view.entropy_bits[at] === undefined ? "" : ` · entropy ${view.entropy_bits[at].toFixed(2)} bits`;
  const role = own.start === at ? `opens a patch of ${own.length}: ${own.reason}` : `byte ${at - own.start + 1} of a patch of ${own.length}`;
  const sum = view.kind === "budget" ? ` · ${counted(view, own, at)}` : "";
  const char = column.parentElement.querySelector(".raw") ? "no character" : `${text.trim() || "blank"} ${points}`;
  $("byte").replaceChildren(node("b", "", `0x${hex(view.data[at])}`), ` byte ${at} · ${char}${entropy} · ${role}${sum}`);
}

// For the rule `budget`: the sum that was compared with the threshold at a byte. At a patch start it is the sum of the
// patch before and this byte.
function counted({ entropy_bits, heights, threshold_bits }, own, at) {
  const opens = own.start === at && at > 0;
  const sum = opens ? heights[at - 1] + entropy_bits[at] : heights[at];
  return `${opens ? "the patch before, with it" : "the patch so far"}: ${sum.toFixed(2)} of ${threshold_bits.toFixed(2)} bits`;
}

// ---------------------------------------------------------------------------------------------------- rules and tokens

function compare() {
  const { view } = state;
  if (state.writing !== null) return;
  const rows = view.rules.map((rule) => [rule.kind, note(rule), rule.starts]);
  if (view.tokens) rows.push(["BPE", `${view.tokens.name}: ${view.tokens.count} tokens of ${(view.bytes / view.tokens.count || 0).toFixed(2)}`, view.tokens.pieces.map((piece) => piece.start)]);
  $("rules").replaceChildren(...rows.flatMap(([name, words, starts]) => [node("span", "name", name), node("span", "note", words), strip(starts)]));
}

function note({ kind, starts, threshold_bits, stride, mean_patch_bytes }) {
  const limit = { entropy: `> ${threshold_bits?.toFixed(2)} bits, `, budget: `sum > ${threshold_bits?.toFixed(2)} bits, `, monotonic: `rise > ${threshold_bits?.toFixed(2)} bits, `, fixed: `${stride} bytes, ` }[kind] ?? "";
  return `${limit}${starts.length} patches of ${mean_patch_bytes.toFixed(2)}`;
}

// A line of whole characters; each character belongs to the patch in which it begins.
function strip(starts) {
  const { data } = state.view;
  const line = node("div", "strip");
  line.dir = direction(data);
  const all = cells(data.subarray(0, 600), new Set(starts));
  let next = 0;
  starts.forEach((start, index) => {
    const end = starts[index + 1] ?? data.length;
    let text = "";
    for (; next < all.length && all[next].start < end; next++) text += all[next].text;
    if (text || start < 600) line.append(node("span", "", text.replaceAll("\n", "↵")));
  });
  return line;
}

// --------------------------------------------------------------------------------------------------------- generation

async function write() {
  if (state.writing) return;
  const stopper = (state.writing = new AbortController());
  state.from = state.bytes.length;
  buttons();
  complain("generation", null);
  const begun = performance.now();
  try {
    const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
    const body = {
      model: $("model").value || undefined, prompt_b64: to64(state.bytes), stream: true,
      seed: number("seed"), max_tokens: number("most"), temperature: number("temperature"),
    };
    const answer = await ask("/v1/completions", body, stopper.signal);
    for await (const chunk of events(answer)) {
      if (chunk.error) throw new Error(chunk.error.message);
      grow(from64(chunk.choices[0].bytes_b64));
      const written = state.bytes.length - state.from;
      $("speed").textContent = `${written} bytes, ${Math.round((1000 * written) / (performance.now() - begun))} a second`;
    }
  } catch (error) {
    complain("generation", error);
  }
  state.writing = null;
  buttons();
  link();
  patch();
}

function grow(data) {
  const bytes = new Uint8Array(state.bytes.length + data.length);
  bytes.set(state.bytes);
  bytes.set(data, state.bytes.length);
  state.bytes = bytes;
  $("text").value = lenient.decode(bytes);
  patch();
}

async function* events(answer) {
  let unread = "";
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    const blocks = (unread + text).split("\n\n");
    unread = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ") && block !== "data: [DONE]") yield JSON.parse(block.slice(6));
    }
  }
}

function buttons() {
  $("write").disabled = state.writing !== null;
  $("stop").disabled = state.writing === null;
  $("back").disabled = state.writing !== null || state.from === null;
}

// --------------------------------------------------------------------------------------------------------------- input

function take(bytes, typed = false) {
  state.writing?.abort();
  complain("generation", null);
  state.bytes = bytes;
  state.from = state.cursor = null;
  if (!typed) $("text").value = lenient.decode(bytes);
  buttons();
  link();
  patchSoon();
}

function turn(bits) {
  state.threshold = bits;
  if (bits !== null) show(bits);
  link();
  patch();
}

const link = later(() => {
  const parts = new URLSearchParams();
  if (state.bytes.length <= LINKED) parts.set("t", to64(state.bytes));
  if (state.threshold !== null) parts.set("b", state.threshold.toFixed(2));
  if ($("model").selectedIndex > 0) parts.set("m", $("model").value);
  history.replaceState(null, "", `#${parts}`);
}, 300);

// Convert the height of the pointer in the plot to bits.
function bitsAt(event, row) {
  const plot = parseFloat(getComputedStyle($("quilt")).getPropertyValue("--plot"));
  const bits = (1 - (event.clientY - row) / plot) * state.view.most;
  return Math.round(100 * Math.max(0, Math.min(bits, Number($("threshold").max)))) / 100;
}

function drag(event) {
  const grabbed = event.target.closest(".grip, .cell");
  if (!grabbed || !state.view || state.view.threshold_bits === null || (event.pointerType !== "mouse" && !grabbed.matches(".grip"))) return;
  const top = grabbed.matches(".grip") ? document.querySelector(".cell")?.getBoundingClientRect().top : grabbed.getBoundingClientRect().top;
  if (top === undefined || (grabbed.matches(".cell") && event.clientY > top + 72)) return;
  event.preventDefault();
  const quilt = $("quilt");
  quilt.focus({ preventScroll: true });
  quilt.setPointerCapture(event.pointerId);
  quilt.classList.add("dragging");
  const move = (moved) => turn(bitsAt(moved, top));
  const end = () => {
    quilt.classList.remove("dragging");
    quilt.removeEventListener("pointermove", move);
  };
  quilt.addEventListener("pointermove", move);
  quilt.addEventListener("pointerup", end, { once: true });
  quilt.addEventListener("pointercancel", end, { once: true });
}

function listen() {
  $("text").addEventListener("input", () => take(encoder.encode($("text").value), true));
  $("threshold").addEventListener("input", () => turn(Number($("threshold").value)));
  $("own").addEventListener("click", () => turn(null));
  $("model").addEventListener("change", () => turn(null));
  $("quilt").addEventListener("pointerdown", drag);
  $("quilt").addEventListener("pointerover", (event) => event.target.dataset.byte && mark(Number(event.target.dataset.byte)));
  $("quilt").addEventListener("focus", () => mark(state.cursor ?? 0));
  $("quilt").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 16, ArrowUp: -16, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || !state.view) return;
    event.preventDefault();
    mark(Math.max(0, Math.min(Math.min(state.view.bytes, SHOWN) - 1, (state.cursor ?? 0) + step)));
    document.querySelector(".here")?.scrollIntoView({ block: "nearest" });
  });
  $("file").addEventListener("change", async () => {
    if ($("file").files[0]) take(new Uint8Array(await $("file").files[0].arrayBuffer()));
  });
  $("share").addEventListener("click", () => navigator.clipboard?.writeText(location.href));
  $("write").addEventListener("click", write);
  $("stop").addEventListener("click", () => state.writing?.abort());
  $("back").addEventListener("click", () => take(state.bytes.slice(0, state.from)));
  $("key").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("key", $("secret").value);
    start();
  });
  window.addEventListener("hashchange", restore);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") state.writing?.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write();
  });
  for (const [name, text] of Object.entries(SAMPLES)) {
    const chip = node("button", "chip", name);
    chip.type = "button";
    chip.addEventListener("click", () => take(encoder.encode(text)));
    $("samples").append(chip);
  }
}

async function start() {
  try {
    const { data } = await (await ask("/v1/models")).json();
    $("model").replaceChildren(...data.map(({ id }) => node("option", "", id)));
    state.tokens = data[0].tokenizers[0] ?? null;
    restore();
  } catch (error) {
    complain("patches", error);
  }
}

// Restore the state from the address; invalid parts are ignored.
function restore() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const bits = parseFloat(parts.get("b"));
  state.threshold = Math.abs(bits) <= 1e6 ? bits : null;
  $("model").selectedIndex = Math.max(0, [...$("model").options].findIndex(({ value }) => value === parts.get("m")));
  let text = encoder.encode(SAMPLES.English);
  try {
    if (parts.has("t")) text = from64(parts.get("t"));
  } catch {} // invalid base64
  take(text);
}

listen();
start();
