"use strict";
// The page has no network: what it shows lies in it, deflated. A place is where an op was written, a line of the source or
// an ONNX node; each line of each step has one, and that is how an op is followed through all levels.

const $ = (id) => document.getElementById(id);

/** An element with properties and children; text is never read as HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

function draw(tag, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

async function inflated(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const TOKENS = /(\/\/.*$|;.*$)|(%[\w$.-]+)|([@#](?:"[^"]*"|[\w$.-]+))|\b((?:nn|linalg|tensor|ukernel|memref|vector|arith|math|scf|func|mvm|affine|builtin)\.[\w.]+)|((?:tensor|memref|vector)<[^>]*>+)|\b(\d(?:[\d.,e+-]*\d)?)\b/g;
const CLASSES = ["c", "v", "s", "o", "t", "n"];

/** The text in syntax colours; values and symbols can be clicked. */
function coloured(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(TOKENS)) {
    if (match.index > end) parts.push(text.slice(end, match.index));
    const kind = CLASSES[match.slice(1).findIndex((group) => group !== undefined)];
    parts.push(make("span", { class: kind }, match[0]));
    end = match.index + match[0].length;
  }
  parts.push(text.slice(end));
  return parts;
}

const SIGNS = { "+": "add", "-": "gone", ">": "moved", "@": "head", "=": "head", "~": "folded", " ": "kept" };
const TABS = ["Diff", "Program", "Layers", "Roofline", "Memory", "Remarks"];

let data;
let assembly;
const state = { step: 0, tab: "Diff", place: null };

function number(value, units) {
  let index = 0;
  while (value >= 999.5 && index < units.length - 1) { value /= 1000; index += 1; }
  const digits = value >= 99.95 || value === Math.floor(value) ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[index]}`.trim();
}
const seconds = (s) => (s === null || s === undefined ? "" : number(s * 1e9, ["ns", "us", "ms", "s"]));
const bytes = (n) => number(n, ["B", "KB", "MB", "GB"]);
const flops = (n) => number(n, ["FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP"]);

// Steps --------------------------------------------------------------------------------------------------------

function showSteps() {
  const longest = Math.max(...data.steps.map((step) => step.seconds), 1e-9);
  const most = Math.max(...data.steps.map((step) => Math.abs(step.saved || 0)), 1e-9);
  const children = [];
  let level = null;
  data.steps.forEach((step, index) => {
    if (step.level !== level) children.push(make("div", { class: "level" }, `level ${step.level}`));
    level = step.level;
    const bars = [make("div", { class: "bar", style: `width:${(100 * step.seconds) / longest}%`, title: `took ${seconds(step.seconds)}` })];
    if (step.saved) {
      const kind = step.saved > 0 ? "saved" : "lost";
      const title = `${kind === "saved" ? "saves" : "costs"} ${seconds(Math.abs(step.saved))} a call`;
      bars.push(make("div", { class: `bar ${kind}`, style: `width:${(100 * Math.abs(step.saved)) / most}%`, title }));
    }
    children.push(make("button", {
      class: step.changed ? "" : "idle", "data-step": index, onclick: () => go({ step: index }),
      "aria-current": index === state.step ? "step" : undefined,
    }, make("span", { class: "name" }, make("span", {}, step.name), make("span", { class: "faint" }, step.seconds ? seconds(step.seconds) : "")), ...bars));
  });
  $("steps").replaceChildren(...children);
}

function showTabs() {
  $("tabs").replaceChildren(...TABS.map((tab, index) => make("button", {
    role: "tab", "aria-selected": `${tab === state.tab}`, title: `${index + 1}`, onclick: () => go({ tab }),
  }, tab)));
}

// Views --------------------------------------------------------------------------------------------------------

const VIEWS = {
  Diff(step) {
    const found = [make("h2", {}, step.name)];
    if (step.cost) found.push(make("p", { class: "faint" }, step.cost));
    if (!step.changed) found.push(make("p", {}, step.why ? `${step.level === "bytecode" ? "There is no diff" : "It changed nothing"}: ${step.why}.` : "The program as it was read."));
    for (const [sign, text] of step.diff) found.push(make("div", { class: `line ${SIGNS[sign] || "kept"}` }, ...coloured(text)));
    return found;
  },
  Program(step) {
    return step.lines.map(([text, place]) => make("div", {
      class: `line${place === state.place && place !== null ? " hit" : ""}`, "data-place": place,
    }, ...coloured(data.texts[text])));
  },
  Layers() {
    const measured = data.layers.some((layer) => layer.seconds !== null);
    const columns = [["op", (l) => l.name, (name, l) => named(l)], ["calls", (l) => l.calls], ["work", (l) => l.flops, flops], ["moved", (l) => l.bytes, bytes]];
    columns.push(["roofline", (l) => l.limit, seconds]);
    if (measured) columns.push(["measured", (l) => l.seconds, seconds], ["of roof", (l) => (l.seconds ? l.limit / l.seconds : 0), (x) => `${(100 * x).toFixed(0)} %`]);
    if (!data.layers.length) return [make("p", { class: "faint" }, "No layer was measured, or nothing computes here.")];
    return [sortable(columns, data.layers, measured ? 5 : 4)];
  },
  Roofline() { return [roofline()]; },
  Memory() { return [memory()]; },
  Remarks(step) {
    const own = data.remarks.filter((remark) => remark.step === step.number);
    return [make("h2", {}, own.length ? `What ${step.name} tells` : `${step.name} tells nothing; all that passes tell`), list(own.length ? own : data.remarks)];
  },
};

/** A name without its middle, if it is long: its two ends tell the layers of a network apart. */
function shortened(name, most) {
  const end = Math.floor((most - 1) / 2);
  return name.length <= most ? name : `${name.slice(0, most - 1 - end)}…${name.slice(-end)}`;
}

/** Characters for the names of layers, so that no two look alike. */
function room() {
  const names = new Set(data.layers.map((layer) => layer.name));
  return [34, 48, 64].find((most) => new Set([...names].map((name) => shortened(name, most))).size === names.size) ?? Infinity;
}

function named(layer) {
  const what = [layer.opcode, layer.kernel && `@${layer.kernel}`].filter(Boolean).join(" by ");
  return make("span", { title: `${layer.name}\n${what}` }, shortened(layer.name, room()), make("br"), make("span", { class: "faint" }, shortened(what, 40)));
}

function sortable(columns, rows, by) {
  const table = make("table");
  let down = true;
  function fill() {
    const get = columns[by][1];
    const sorted = [...rows].sort((a, b) => (get(a) < get(b) ? -1 : get(a) > get(b) ? 1 : 0) * (down ? -1 : 1));
    const head = make("tr", {}, ...columns.map(([name], index) => make("th", {
      class: columns[index][0], tabindex: 0, "aria-sort": index === by ? (down ? "descending" : "ascending") : undefined,
      onclick: () => { down = index === by ? !down : true; by = index; fill(); },
    }, name)));
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...sorted.map((row) => make("tr", {
      class: `pick${row.place === state.place ? " hit" : ""}`, tabindex: 0, "data-place": row.place, onclick: () => go({ place: row.place }),
      onkeydown: (event) => { if (event.key === "Enter") go({ place: row.place }); },
    }, ...columns.map(([, value, show], index) => make("td", { class: columns[index][0] }, show ? show(value(row), row) : `${value(row)}`))))));
  }
  fill();
  return table;
}

/** Work against time: a dot a layer, under the roof that arithmetic and memory make. Williams et al.: Roofline (2009). */
function roofline() {
  const [width, height, left, bottom] = [900, 520, 90, 40];
  const { peak, memory: bandwidth, caches } = data.roofline;
  const dots = data.layers.filter((l) => l.flops > 0 && l.bytes > 0 && (l.seconds || l.limit) > 0)
    .map((l) => ({ layer: l, x: l.flops / l.bytes, y: l.flops / (l.seconds || l.limit) }));
  if (!dots.length) return make("p", { class: "faint" }, "Nothing computes here.");
  const xs = [Math.min(...dots.map((d) => d.x), peak / bandwidth) / 2, Math.max(...dots.map((d) => d.x), peak / bandwidth) * 2];
  const ys = [Math.min(...dots.map((d) => d.y)) / 2, Math.max(peak, ...dots.map((d) => d.y)) * 1.5];
  const scale = ([low, high], from, to) => (v) => from + ((Math.log10(v) - Math.log10(low)) / (Math.log10(high) - Math.log10(low))) * (to - from);
  const x = scale(xs, left, width - 10);
  const y = scale(ys, height - bottom, 10);
  const parts = [];
  for (let e = Math.ceil(Math.log10(xs[0])); e <= Math.log10(xs[1]); e += 1) {
    parts.push(draw("line", { class: "axis", x1: x(10 ** e), x2: x(10 ** e), y1: 10, y2: height - bottom }));
    parts.push(draw("text", { x: x(10 ** e), y: height - bottom + 16, "text-anchor": "middle" }, `${10 ** e}`));
  }
  for (let e = Math.ceil(Math.log10(ys[0])); e <= Math.log10(ys[1]); e += 1) {
    parts.push(draw("line", { class: "axis", x1: left, x2: width - 10, y1: y(10 ** e), y2: y(10 ** e) }));
    parts.push(draw("text", { x: left - 6, y: y(10 ** e) + 4, "text-anchor": "end" }, `${flops(10 ** e)}/s`));
  }
  parts.push(draw("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, "operations for each byte moved"));
  for (const [name, rate] of [["memory", bandwidth], ...caches]) {
    const [start, ridge] = [Math.max(xs[0], ys[0] / rate), Math.min(Math.max(peak / rate, xs[0]), xs[1])];
    parts.push(draw("path", { class: "roof", d: `M${x(start)},${y(start * rate)} L${x(ridge)},${y(ridge * rate)} L${x(xs[1])},${y(peak)}` }));
    parts.push(draw("text", { x: x(start) + 4, y: y(start * rate) - 6 }, `${name} ${bytes(rate)}/s`));
  }
  parts.push(draw("text", { x: width - 12, y: y(peak) - 5, "text-anchor": "end" }, `peak ${flops(peak)}/s`));
  const longest = Math.max(...dots.map((d) => d.layer.seconds || d.layer.limit));
  for (const dot of dots) {
    const time = dot.layer.seconds || dot.layer.limit;
    const circle = draw("circle", {
      class: `dot${dot.layer.place === state.place ? " hit" : ""}`, cx: x(dot.x), cy: y(dot.y), r: 3 + 11 * Math.sqrt(time / longest),
      tabindex: 0, onclick: () => go({ place: dot.layer.place }),
    });
    circle.append(draw("title", {}, `${dot.layer.name} @${dot.layer.kernel}\n${flops(dot.y)}/s, ${dot.x.toPrecision(3)} FLOP/B, ${seconds(time)}`));
    parts.push(circle);
  }
  const what = data.layers.some((l) => l.seconds !== null) ? "as measured; larger dots take longer" : "not measured: at the bound of the target";
  return make("div", {}, make("p", { class: "faint" }, `A dot a layer, ${what}. The roofs on the left are those of memory and caches, on the right that of the multiply-adds.`),
    draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "roofline" }, ...parts));
}

function memory() {
  const { size, buffers, length } = data.arena;
  if (!size) return make("p", { class: "faint" }, "The program needs no working memory.");
  if (!buffers.length) return make("p", { class: "faint" }, `${bytes(size)} of working memory; what lies where in it a compiled program does not keep.`);
  const [width, height, left, bottom] = [900, 520, 70, 34];
  const x = (at) => left + (at / length) * (width - left - 10);
  const y = (offset) => height - bottom - (offset / size) * (height - bottom - 10);
  const parts = buffers.map((buffer) => {
    const rect = draw("rect", {
      class: `buffer${buffer.places.includes(state.place) ? " hit" : ""}`, x: x(buffer.first), width: Math.max(x(buffer.last + 1) - x(buffer.first), 1),
      y: y(buffer.offset + buffer.bytes), height: Math.max(y(buffer.offset) - y(buffer.offset + buffer.bytes), 1),
      tabindex: 0, onclick: () => go({ place: buffer.places[0] ?? null }),
    });
    rect.append(draw("title", {}, `${buffer.name}: ${buffer.type}\n${bytes(buffer.bytes)} from byte ${buffer.offset} on`));
    return rect;
  });
  for (const part of [0, 0.25, 0.5, 0.75, 1]) parts.push(draw("text", { x: left - 6, y: y(part * size) + 4, "text-anchor": "end" }, bytes(part * size)));
  parts.push(draw("text", { x: (left + width) / 2, y: height - 8, "text-anchor": "middle" }, "the program, from its first op to its last"));
  return make("div", {}, make("p", { class: "faint" }, `${bytes(size)} for ${buffers.length} buffers of ${bytes(buffers.reduce((sum, b) => sum + b.bytes, 0))} together. A box is as wide as the buffer lives.`),
    draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "memory" }, ...parts));
}

function list(remarks) {
  if (!remarks.length) return make("p", { class: "faint" }, "nothing");
  return make("ul", {}, ...remarks.map((remark) => make("li", {},
    make("span", { class: remark.kind === "missed" ? "missed" : "" }, `${data.steps[remark.step].name}: `), ...coloured(`${remark.op} ${remark.message}`),
    ...(remark.choice ? [make("div", { class: "faint" }, remark.choice)] : []))));
}

// The op that was picked -----------------------------------------------------------------------------------------

function showOp() {
  const place = state.place;
  if (place === null) {
    $("op").replaceChildren(make("h2", {}, "Pick an op"), make("p", { class: "faint" },
      "Click a value or a line, a row, a dot or a box: its way from the source to its kernels' assembly appears here."));
    return;
  }
  const found = [make("h2", {}, data.places[place])];
  const layers = data.layers.filter((layer) => layer.place === place);
  for (const layer of layers) {
    const time = layer.seconds === null ? `at least ${seconds(layer.limit)} by the roofline`
      : `${seconds(layer.seconds)}, ${((100 * layer.limit) / layer.seconds).toFixed(0)} % of the roofline`;
    found.push(make("p", {}, `${layer.name}: ${layer.calls} calls of @${layer.kernel}, ${flops(layer.flops)}, ${bytes(layer.bytes)} moved, ${time}`));
  }
  const remarks = data.remarks.filter((remark) => remark.places.includes(place));
  if (remarks.length) found.push(make("h3", {}, "Decisions"), list(remarks));
  found.push(make("h3", {}, "Its way through the levels"));
  let before = "";
  data.steps.forEach((step, index) => {
    const lines = step.lines.filter(([, at]) => at === place).map(([text]) => data.texts[text]);
    const text = lines.join("\n");
    if (text === before) return;
    before = text;
    const shown = lines.slice(0, 40).map((line) => make("div", { class: "line" }, ...coloured(line.trim())));
    if (lines.length > 40) shown.push(make("div", { class: "line folded" }, `... ${lines.length - 40} more lines`));
    const summary = make("summary", {}, `${step.name}: ${lines.length} line${lines.length === 1 ? "" : "s"} `,
      make("button", { onclick: (event) => { event.preventDefault(); go({ step: index, tab: "Program" }); scrollToPlace(); } }, "there"));
    found.push(make("details", { open: index === state.step || lines.length === 1 }, summary, ...shown));
  });
  const own = data.uses.some(([at]) => at === place);
  const kernels = [...new Set((own ? data.uses : data.parts).filter(([at]) => at === place).map(([, kernel]) => kernel))];
  if (kernels.length) found.push(make("h3", {}, own ? "Kernels, as assembly" : "It is a part of, as assembly"));
  for (const kernel of kernels) {
    const text = make("pre", {}, "...");
    found.push(make("details", {
      class: "kernel", ontoggle: async () => { assembly ??= await inflated("assembly"); text.textContent = assembly[kernel] ?? "was not compiled for this target"; },
    }, make("summary", {}, `@${kernel}`), text));
  }
  $("op").replaceChildren(...found);
}

function scrollToPlace() {
  const line = $("view").querySelector(".hit");
  if (line) line.scrollIntoView({ block: "center" });
}

// Search, clicks, keys -------------------------------------------------------------------------------------------

/** Where a value or symbol is defined in a step: the place of that line. */
function placeOf(name, step) {
  const line = step.lines.find(([text, place]) => {
    if (place === null) return false;
    const trimmed = data.texts[text].trim();
    const defines = trimmed.includes(`.func ${name}(`) || (trimmed.startsWith("memref.global") && trimmed.includes(` ${name} :`));
    return name[0] === "@" ? defines : trimmed.startsWith(`${name} =`) || trimmed.startsWith(`${name},`);
  });
  return line ? line[1] : null;
}

function pick(name) {
  const order = [state.step, state.step - 1, ...data.steps.keys()];
  for (const index of order) {
    const place = index >= 0 ? placeOf(name, data.steps[index]) : null;
    if (place !== null) return go({ place });
  }
  return undefined;
}

function search(words) {
  const wanted = words.toLowerCase();
  if (!wanted) return go({});
  const hits = [];
  data.places.forEach((place, index) => { if (place.toLowerCase().includes(wanted)) hits.push([place, { place: index }]); });
  for (const layer of data.layers) if (`${layer.name} @${layer.kernel}`.toLowerCase().includes(wanted)) hits.push([`${layer.name} @${layer.kernel}`, { place: layer.place }]);
  data.steps.forEach((step, index) => {
    let count = 0;
    for (const [text, place] of step.lines) {
      if (count < 5 && data.texts[text].toLowerCase().includes(wanted)) { count += 1; hits.push([`${step.name}: ${data.texts[text].trim().slice(0, 110)}`, { step: index, tab: "Program", place: place ?? state.place }]); }
    }
  });
  for (const remark of data.remarks) if (`${remark.op} ${remark.message}`.toLowerCase().includes(wanted)) hits.push([`${data.steps[remark.step].name}: ${remark.op} ${remark.message}`, { place: remark.places[0] ?? state.place }]);
  const items = hits.slice(0, 60).map(([text, target]) => make("li", {}, make("button", { onclick: () => { go(target); scrollToPlace(); } }, text)));
  $("view").replaceChildren(make("h2", {}, `${hits.length} found for "${words}"`), make("ul", { class: "results" }, ...items));
  return undefined;
}

function showHelp() {
  const keys = [["j, k", "next pass, pass before"], ["1 to 6", "diff, program, layers, roofline, memory, remarks"], ["/", "search"], ["t", "dark or light"], ["Esc", "let go of the op"], ["?", "these keys"]];
  $("view").replaceChildren(make("h2", {}, "Keys"), make("table", {}, ...keys.map(([key, what]) => make("tr", {}, make("td", {}, key), make("td", { class: "w" }, what)))),
    make("p", {}, "On the left: the passes, with the time that each took and, in green, what it saves of a call. In the middle: what the pass did. On the right: the op that was picked, on all levels."));
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

function go(change) {
  Object.assign(state, change);
  state.step = Math.max(0, Math.min(data.steps.length - 1, state.step));
  showSteps();
  showTabs();
  $("view").replaceChildren(...VIEWS[state.tab](data.steps[state.step]));
  if ("place" in change || "step" in change) showOp();
}

$("search").addEventListener("input", (event) => search(event.target.value));
$("theme").addEventListener("click", theme);
$("help").addEventListener("click", showHelp);
document.addEventListener("click", (event) => {
  const token = event.target.closest(".v, .s");
  const line = event.target.closest(".line[data-place]");
  if (token && !token.closest("details.kernel")) pick(token.textContent);
  else if (line && line.dataset.place !== "null") go({ place: Number(line.dataset.place) });
});
document.addEventListener("keydown", (event) => {
  if (event.target === $("search")) {
    if (event.key === "Escape") { $("search").value = ""; $("search").blur(); go({}); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = { j: () => go({ step: state.step + 1 }), k: () => go({ step: state.step - 1 }), "/": () => $("search").focus(), t: theme, "?": showHelp, Escape: () => go({ place: null }) };
  const tab = TABS[Number(event.key) - 1];
  const action = tab ? () => go({ tab }) : actions[event.key];
  if (action) { event.preventDefault(); action(); }
});

inflated("data").then((found) => {
  data = found;
  const changed = data.steps.findIndex((step, index) => index > 0 && step.changed);
  go({ step: changed, tab: changed < 0 ? (data.layers.length ? "Layers" : "Program") : "Diff", place: null });
  document.body.dataset.ready = "yes";
});
