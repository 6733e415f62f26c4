"use strict";
// Names of files and words of a model are only ever set as text, never as markup.

const $ = (id) => document.getElementById(id);
const meta = JSON.parse($("meta").textContent);
const photos = [];
for (const block of document.querySelectorAll("script.photographs")) {
  photos.push(...JSON.parse(block.textContent));
  block.remove();
}
const attributes = new Map(meta.attributes.map((a) => [a.name, a]));
const SVG = "http://www.w3.org/2000/svg";
const STEP = 150; // cards that are added when the end of the page comes near

// --- small things ---

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

function draw(tag, properties, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

const known = (value) => value !== null && value !== undefined && value !== "";
const number = (value, digits = 2) => (known(value) ? value.toFixed(digits) : "–");
const percent = (share) => (share > 0 && share < 0.01 ? "<1 %" : `${Math.round(100 * share)} %`);
const last = (path) => path.slice(path.lastIndexOf("/") + 1) || path;

function picture(photo) {
  const holder = make("div", { className: "photo" });
  if (photo.thumbnail) {
    const source = `data:image/jpeg;base64,${photo.thumbnail}`;
    holder.append(make("img", { src: source, alt: "", decoding: "async" }));
  } else {
    holder.append("no picture");
  }
  return holder;
}

// --- which photographs, in which order ---

const columns = new Map(meta.columns.map((column) => [column.key, column]));
let down = true;
let order = [];
let drawn = 0;

function value(photo, key) {
  if (attributes.has(key)) return photo.values?.[key];
  if (key === "width") return known(photo.high) ? photo.high - photo.low : null;
  return photo[key];
}

function compare(a, b, key) {
  const x = value(photos[a], key);
  const y = value(photos[b], key);
  if (!known(x) || !known(y)) return known(y) - known(x) || a - b; // without a value: at the end
  const sign = down ? -1 : 1;
  if (typeof x === "string") return sign * x.localeCompare(y, undefined, { numeric: true }) || a - b;
  // calibrated scores are often equal where the means of the digits are not
  return sign * (x - y || photos[a].expected - photos[b].expected) || a - b;
}

function fits(photo) {
  const text = $("text").value.trim().toLowerCase();
  if (text && !photo.name.toLowerCase().includes(text)) return false;
  const [least, most] = [$("least").value, $("most").value];
  if (least !== "" && !(photo.score >= Number(least) && known(photo.score))) return false;
  if (most !== "" && !(photo.score <= Number(most) && known(photo.score))) return false;
  const [name, tier, state] = [$("attribute").value, $("tier").value, $("state").value];
  if (name && tier !== "" && String(photo.values?.[name]) !== tier) return false;
  return !state || (state === "problem") === known(photo.problem);
}

function refresh() {
  const key = $("sort").value;
  order = [...photos.keys()].filter((index) => fits(photos[index]));
  order.sort((a, b) => compare(a, b, key));
  const all = photos.length.toLocaleString("en");
  const count = order.length.toLocaleString("en");
  $("count").textContent = order.length < photos.length ? `${count} of ${all} photographs` : `${all} photographs`;
  $("nothing").hidden = order.length > 0;
  $("cards").replaceChildren();
  drawn = 0;
  extend();
}

function extend() {
  const next = order.slice(drawn, drawn + STEP);
  $("cards").append(...next.map((index, place) => card(photos[index], drawn + place)));
  drawn += next.length;
}

// --- cards ---

function card(photo, place) {
  const below = make("div", { className: "below" });
  if (photo.problem) {
    below.append(make("div", { className: "trouble", textContent: photo.problem }));
  } else {
    const score = make("div", { className: "score", textContent: number(photo.score) });
    const key = $("sort").value;
    if (!["score", "name", "problem"].includes(key)) {
      score.append(make("small", { textContent: said(photo, key) }));
    }
    below.append(score, track(photo));
  }
  below.append(make("div", { className: "name", textContent: last(photo.name) }));
  const button = make("button", { type: "button", className: "card", title: photo.name });
  button.append(picture(photo), below);
  button.addEventListener("click", () => open(place));
  return button;
}

function said(photo, key) {
  const found = value(photo, key);
  if (!known(found)) return "";
  const tiers = attributes.get(key)?.tiers;
  if (tiers?.length) return short(tiers[found]);
  if (typeof found === "string") return found;
  return `${columns.get(key).short} ${number(found, attributes.has(key) ? 0 : 2)}`;
}

const short = (words) => words.split(" (")[0];

function track(photo) {
  const line = make("div", { className: "track" });
  const range = make("span", { className: "span" });
  range.style.left = `${10 * photo.low}%`;
  range.style.width = `${10 * (photo.high - photo.low)}%`;
  const dot = make("span", { className: "dot" });
  dot.style.left = `${10 * photo.score}%`;
  line.append(range, dot);
  return line;
}

// --- the panel ---

let current = 0;

function open(place) {
  current = place;
  show();
  if (!$("panel").open) $("panel").showModal();
}

function move(by) {
  current = Math.min(Math.max(current + by, 0), order.length - 1);
  while (drawn <= current) extend();
  show();
}

function show() {
  const photo = photos[order[current]];
  $("panel-name").textContent = photo.name;
  $("previous").disabled = current === 0;
  $("next").disabled = current === order.length - 1;
  const facts = make("div");
  const top = make("div", { className: "top" }, picture(photo), facts);
  const inside = [top];
  if (photo.problem) {
    facts.append(make("p", { className: "trouble-text", textContent: photo.problem }));
  } else {
    facts.append(...headline(photo), list(photo));
    const note = "Bars: what the digits say. Band: the interval. Dashed line: the score.";
    inside.push(make("h3", { textContent: "Distribution of the score" }), chart(photo));
    inside.push(make("p", { className: "quiet", textContent: note }));
    if (attributes.size) inside.push(make("h3", { textContent: "Attributes" }), ...doubts(photo), answers(photo));
  }
  $("inside").replaceChildren(...inside);
  $("panel").scrollTop = 0;
}

function headline(photo) {
  const range = `${number(photo.low)} to ${number(photo.high)} (${photo.interval})`;
  return [
    make("div", { className: "big", textContent: number(photo.score) }),
    make("p", { className: "quiet", textContent: range }),
  ];
}

function list(photo) {
  const rows = [
    ["Digits as written", photo.parsed ? number(photo.greedy, meta.digits - 1) : "another form"],
    ["Mean of the digits", number(photo.expected)],
    ["Standard deviation", number(photo.sd)],
    ["Off the format", percent(photo.off_format)],
  ];
  if (known(photo.composite)) rows.push(["Composite", number(photo.composite)]);
  const terms = rows.flatMap(([name, text]) => [
    make("dt", { textContent: name }),
    make("dd", { textContent: text }),
  ]);
  return make("dl", {}, ...terms);
}

function chart(photo) {
  const [left, wide, base, high] = [8, 584, 122, 98];
  const x = (score) => left + (wide * score) / 10;
  const [first, parts] = photo.bars;
  const size = 10 / meta.bars;
  const top = Math.max(...parts, 1);
  const words = `Mean ${number(photo.score)}, ${number(photo.low)} to ${number(photo.high)}`;
  const svg = draw("svg", { viewBox: "0 0 600 144", role: "img", "aria-label": words });
  const range = { class: "range", x: x(photo.low), y: base - high - 4, height: high + 4 };
  svg.append(draw("rect", { ...range, width: Math.max(1, x(photo.high) - x(photo.low)) }));
  parts.forEach((part, at) => {
    const height = (high * part) / top;
    const place = { x: x((first + at) * size) + 0.5, y: base - height, height };
    const column = draw("rect", { class: "column", ...place, width: wide / meta.bars - 1 });
    const start = (first + at) * size;
    column.append(draw("title", {}, `${number(start, size < 1 ? 1 : 0)}: ${part / 100} %`));
    svg.append(column);
  });
  svg.append(draw("line", { class: "axis", x1: left, x2: left + wide, y1: base, y2: base }));
  for (let score = 0; score <= 10; score += 1) {
    svg.append(draw("line", { class: "axis", x1: x(score), x2: x(score), y1: base, y2: base + 4 }));
    svg.append(draw("text", { x: x(score), y: base + 17, "text-anchor": "middle" }, score));
  }
  const at = x(photo.score);
  const anchor = photo.score > 9 ? "end" : "start";
  svg.append(draw("line", { class: "mean", x1: at, x2: at, y1: 8, y2: base }));
  const text = { class: "said", x: at + (anchor === "end" ? -5 : 5), y: 16, "text-anchor": anchor };
  svg.append(draw("text", text, number(photo.score)));
  return svg;
}

function doubts(photo) {
  if (!photo.left) return [];
  const from = photo.left === "end" ? "the end" : `“${photo.left.replaceAll("_", " ")}”`;
  const words = `These were filled in for the model. Left to itself it would write something else from ${from} on.`;
  return [make("p", { className: "trouble-text", textContent: words })];
}

function answers(photo) {
  const holder = make("div", { className: "attributes" });
  for (const attribute of meta.attributes) {
    const found = photo.values?.[attribute.name];
    const words = !known(found) ? "no answer" : attribute.tiers.length ? attribute.tiers[found] : found;
    const line = make("p", {}, make("strong", { textContent: `${attribute.title}: ` }), String(words));
    const block = make("div", { className: "attribute" }, line);
    const reason = photo.reasons?.[attribute.name];
    if (reason) block.append(make("p", { className: "reason", textContent: reason }));
    const chances = photo.chances?.[attribute.name];
    if (chances) block.append(...(attribute.tiers.length ? tiers : tens)(attribute, chances, found));
    holder.append(block);
  }
  return holder;
}

function tiers(attribute, chances, chosen) {
  const rows = chances.map((share, at) => {
    const filled = make("span");
    filled.style.width = `${100 * share}%`;
    const cell = make("div", { className: "cell" }, filled);
    return make("li", { className: at === chosen ? "chosen" : "" },
      make("span", { textContent: short(attribute.tiers[at]) }), cell,
      make("span", { className: "share", textContent: percent(share) }));
  });
  return [make("ul", { className: "tiers" }, ...rows)];
}

function tens(attribute, chances, chosen) {
  const top = Math.max(...chances);
  const bars = chances.map((share, at) => {
    const filled = make("i");
    filled.style.height = `${(100 * share) / top}%`;
    return make("span", { title: `${at + 1}: ${percent(share)}` }, filled);
  });
  const digits = chances.map((_, at) =>
    make("span", { textContent: at + 1, className: at + 1 === chosen ? "chosen" : "" }));
  return [make("div", { className: "tens" }, ...bars), make("div", { className: "digits" }, ...digits)];
}

// --- controls ---

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([key, text]) => make("option", { value: key, textContent: text })));
}

function choices() {
  const attribute = attributes.get($("attribute").value);
  $("by-tier").hidden = !attribute;
  if (!attribute) return options($("tier"), []);
  const ten = Array.from({ length: 10 }, (_, at) => [at + 1, at + 1]);
  const words = attribute.tiers.map((tier, at) => [at, short(tier)]);
  return options($("tier"), [["", "anything"], ...(words.length ? words : ten)]);
}

function turn(to) {
  down = to;
  $("turn").textContent = down ? "↓" : "↑";
  $("turn").title = down ? "Highest first" : "Lowest first";
}

options($("sort"), meta.columns.map((column) => [column.key, column.title]));
const choosable = meta.attributes.filter((attribute) => attribute.kind !== "text");
options($("attribute"), [["", "any"], ...choosable.map((a) => [a.name, a.title])]);
$("by-attribute").hidden = !choosable.length;
$("by-state").hidden = !photos.some((photo) => photo.problem);
$("tools").open = window.innerWidth > 620;
choices();
turn(true);

$("filters").addEventListener("submit", (event) => event.preventDefault());
$("clear").addEventListener("click", () => { $("filters").reset(); choices(); turn(true); refresh(); });
for (const id of ["text", "least", "most", "tier", "state"]) $(id).addEventListener("input", refresh);
$("attribute").addEventListener("input", () => { choices(); refresh(); });
$("sort").addEventListener("input", () => { turn($("sort").value !== "name"); refresh(); });
$("turn").addEventListener("click", () => { turn(!down); refresh(); });
$("previous").addEventListener("click", () => move(-1));
$("next").addEventListener("click", () => move(1));
$("close").addEventListener("click", () => $("panel").close());
$("panel").addEventListener("click", (event) => { if (event.target === $("panel")) $("panel").close(); });
$("panel").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight") move(1);
});
$("panel").addEventListener("close", () => $("cards").children[current]?.focus());
const end = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting) || drawn >= order.length) return;
  extend();
  end.unobserve($("more")); // watched anew, it reports once more where there is still room
  end.observe($("more"));
}, { rootMargin: "1200px" });
end.observe($("more"));
refresh();
