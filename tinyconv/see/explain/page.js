"use strict";
// The numbers: arrays, and per pass and step the cells that meet and their products (page.py).
const DATA = JSON.parse(document.getElementById("numbers").textContent);
const $ = id => document.getElementById(id);
const ROLES = ["drive", "window", "kernel"];
const SIDE = {x: 0, dx: 0, z: 0, w: 1, dw: 1, wf: 1, db: 1, y: 2, dy: 2};  // left to right
const FACTS = {K: "kernel", P: "padding", S: "stride", D: "dilation", G: "groups", OP: "output padding"};

let walk;       // the pass that is shown
let step = 0;
let cells = {}; // role -> the elements of its array, by position
let held = null; // the cell that is pointed at: [role, position]
let timer = 0;
const dark = matchMedia("(prefers-color-scheme: dark)");
const still = matchMedia("(prefers-reduced-motion: reduce)");

const unpacked = ({starts, which, patterns}) => starts.map((start, t) => patterns[which[t]].map(cell => start + cell));
for (const scene of DATA.scenes) {
  scene.places = unpacked(scene.places);
  scene.taps = unpacked(scene.taps);
}
for (const array of DATA.arrays) array.values = array.values.map(Number);
for (const pass of DATA.passes) pass.terms = pass.terms.map(row => row.map(Number));

// --- arrays

const arrayOf = role => walk[role] === null ? null : DATA.arrays[walk[role]];

function indexOf(array, position) {
  const index = [0, 0, 0, 0];
  for (let axis = 3; axis >= 0; axis--) {
    index[axis] = position % array.shape[axis] + array.origin[axis];
    position = Math.floor(position / array.shape[axis]);
  }
  return index;
}

const label = (role, position) => {
  const array = arrayOf(role);
  return `${array.name}[${indexOf(array, position).slice(4 - array.axes)}]`;
};

function isOutside(array, [, , h, w]) {
  return !!array.size && (h < 0 || w < 0 || h >= array.size[0] || w >= array.size[1]);
}

// Where a place of the window takes its value from, and where what is added to it goes.
function sourceOf(position) {
  const {shape} = arrayOf("window"), {rowSource, columnSource} = DATA.scenes[walk.scene];
  const column = position % shape[3], row = Math.floor(position / shape[3]) % shape[2];
  if (rowSource[row] < 0 || columnSource[column] < 0) return -1;
  return position + (rowSource[row] - row) * shape[3] + columnSource[column] - column;
}

// --- steps

const scene = () => DATA.scenes[walk.scene];
const at = (role, t, m) => role === "drive" ? scene().drivers[t]
  : role === "window" ? scene().places[t][m] : scene().taps[t][m];
const has = (role, t) => role === "drive" || (role === "window" ? scene().places : scene().taps)[t].length > 0;

function targetOf(t, m) {
  const position = at(walk.target, t, m);
  return walk.target === "window" ? sourceOf(position) : position;
}

function resultAfter(last) {
  const values = arrayOf(walk.target).values.slice();
  for (let t = 0; t <= last; t++)
    walk.terms[t].forEach((term, m) => {
      const target = targetOf(t, m);
      if (target >= 0) values[target] += term;
    });
  return values;
}

// --- numbers as text

function short(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size < 0.005 || size >= 10000 ? value.toExponential(0).replace("e+", "e")
    : String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2)));
  return text.replace("-", "−");
}

const three = value => Number.isFinite(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : short(value);
const number = value => Number.isFinite(value) ? String(Number(value.toPrecision(4))) : String(value);

function paint(element, value, most) {
  const share = most > 0 && Number.isFinite(value) ? Math.min(1, Math.abs(value) / most) : 0;
  element.style.setProperty("--share", `${Math.round(share * 92)}%`);
  element.classList.toggle("minus", value < 0);
  element.classList.toggle("strong", share > (dark.matches ? 0.6 : 0.82));
}

const greatest = values => values.reduce((most, v) => Number.isFinite(v) ? Math.max(most, Math.abs(v)) : most, 0);

// --- the panels: input side left, kernel in the middle, output side right, in every pass

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function build() {
  const roles = ROLES.filter(role => walk[role] !== null).sort((a, b) => SIDE[arrayOf(a).name] - SIDE[arrayOf(b).name]);
  cells = {};
  const parts = roles.map(panel), written = roles.indexOf(walk.target);
  const glyphs = roles.length === 2 ? [written ? "→" : "←"] : [["=", "∗"], ["→", "←"], ["∗", "="]][written];
  $("panels").replaceChildren(...parts.flatMap((part, i) => i ? [element("span", {class: "glyph", "aria-hidden": "true"}, glyphs[i - 1]), part] : [part]));
  walk.most = {};
  for (const role of roles) {
    const values = role === walk.target ? resultAfter(walk.terms.length - 1) : arrayOf(role).values;
    walk.most[role] = greatest(values);
  }
  legend(roles);
  fit();
}

function panel(role) {
  const array = arrayOf(role), [N, C, H, W] = array.shape;
  const planes = element("div", {class: "planes"});
  cells[role] = [];
  for (let p = 0; p < N * C; p++) {
    const grid = element("div", {class: "grid", role: "grid", "aria-label": planeName(role, p) || array.title});
    grid.style.gridTemplateColumns = `repeat(${W}, auto)`;
    for (let r = 0; r < H; r++) {
      const row = element("div", {class: "row", role: "row"});
      for (let c = 0; c < W; c++) row.append(cell(role, array, (p * H + r) * W + c));
      grid.append(row);
    }
    const name = planeName(role, p);
    planes.append(element("div", {class: "plane"}, ...(name ? [element("small", {}, name)] : []), grid));
  }
  const caption = element("figcaption", {}, element("span", {class: "name"}, array.name), ` ${array.title}`);
  if (role === walk.target) caption.append(element("span", {class: "badge"}, "written"));
  return element("figure", {class: "panel", "data-role": role}, caption, planes);
}

function planeName(role, plane) {
  const array = arrayOf(role), [N, C, H, W] = array.shape;
  if (N * C === 1 && !array.origin[0] && !array.origin[1]) return "";
  const [n, c] = indexOf(array, plane * H * W);
  if (array.axes === 1) return "";
  if (role === "kernel") return C > 1 || array.origin[1] ? `${array.name}[${n},${c}]` : `${array.name}[${n}]`;
  return (N > 1 || array.origin[0] ? `image ${n}, ` : "") + `channel ${c}`;
}

function cell(role, array, position) {
  const index = indexOf(array, position), [, , h, w] = index;
  const made = element("div", {class: `cell ${role}`, role: "gridcell", tabindex: position ? -1 : 0,
    "data-role": role, "data-at": position, "data-index": index.slice(4 - array.axes)});
  if (isOutside(array, index)) made.classList.add("pad");
  else if (array.inserted && (h % array.inserted[0] || w % array.inserted[1])) made.classList.add("inserted");
  else if (array.unread && (array.unread[0].includes(h) || array.unread[1].includes(w))) made.classList.add("unread");
  if (role === "drive") made.classList.add("jump");
  return cells[role][position] = made;
}

const MANY = 8;  // more planes than this are small, and as high as two screens

// Cell sizes: in one row where cells stay readable, else wrapped.
function fit() {
  const panels = [...$("panels").querySelectorAll(".panel")], style = getComputedStyle($("stage"));
  const room = $("stage").clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const height = Math.max(300, 0.55 * innerHeight);
  const needs = panels.map(part => {
    const {shape: [N, C, H, W]} = arrayOf(part.dataset.role);
    return {part, H, W, planes: N * C, fixed: part.dataset.role === "kernel" && C <= 4 ? C : 0};
  });
  let [side, across] = oneRow(needs, room, height);
  const many = needs.some(need => need.planes > MANY);
  const stacked = side < (room < 700 ? 30 : many ? 8 : 20);
  $("panels").classList.toggle("stacked", stacked);
  needs.forEach((need, i) => {
    // Three planes and more stand two abreast even where that leaves no room for numbers.
    const wide = need.W * (need.planes > MANY ? 10 : 27) + 12;
    const most = need.fixed || Math.max(need.planes > 2 ? 2 : 1, Math.min(need.planes, Math.floor((room + 12) / wide)));
    const own = stacked ? Math.min(36, Math.floor((room - 12 * (most - 1)) / (most * need.W)) - 1) : side;
    need.part.style.setProperty("--side", `${Math.max(8, own)}px`);
    need.part.classList.toggle("small", own < 24);
    need.part.querySelector(".planes").style.gridTemplateColumns = `repeat(${stacked ? most : across[i]}, auto)`;
  });
  rays();
}

// The largest cells, and how many planes of each panel stand side by side for it.
function oneRow(needs, room, height) {
  let best = [0, []];
  const many = needs.some(need => need.planes > MANY), least = many ? 6 : 24;
  if (many) height *= 4;
  const attempt = (chosen, width, columns, tallest) => {
    const need = needs[chosen.length];
    if (!need) {
      const side = Math.min(48, Math.floor((room - width) / columns) - 1, Math.max(least, Math.floor(height / tallest) - 1));
      if (side > best[0]) best = [side, chosen];
      return;
    }
    for (let n = need.fixed || 1; n <= (need.fixed || Math.min(MANY, need.planes)); n++)
      attempt([...chosen, n], width + 12 * (n - 1) + (chosen.length ? 70 : 0), columns + n * need.W,
        Math.max(tallest, Math.ceil(need.planes / n) * (need.H + 1)));
  };
  attempt([], 0, 0, 1);
  return best;
}

function legend(roles) {
  const seen = name => $("panels").querySelector(`.cell.${name}`);
  const rows = [["pad", arrayOf("window")?.padded === "cut off" ? "cut off by the padding: what falls here is lost" : "padding"],
    ["unread", walk.target === "window" && walk.name === "forward" ? "no stamp reaches it" : "never read: no window has it"],
    ["inserted", "a zero between the rows and columns of x"]].filter(([name]) => seen(name));
  const scales = roles.map(role => `${arrayOf(role).name} ±${number(walk.most[role])}`).join(", ");
  $("legend").replaceChildren(element("li", {}, `0 is in the middle; ends: ${scales}`),
    ...rows.map(([name, text]) => element("li", {}, element("span", {class: `cell ${name}`}), text)));
}

// --- one step

function show() {
  const result = resultAfter(step), reached = new Set(scene().drivers.slice(0, step + 1));
  for (const role in cells) {
    const array = arrayOf(role), written = role === walk.target;
    const on = new Set(!has(role, step) ? [] : role === "drive" ? [at("drive", step)]
      : role === "window" ? scene().places[step] : scene().taps[step]);
    // A padding that repeats the image hands what it gets to the cell that it repeats.
    const also = new Set(written && role === "window" ? scene().places[step].map(sourceOf).filter(p => !on.has(p)) : []);
    cells[role].forEach((made, position) => {
      const value = written ? result[position] : array.values[position];
      const lost = written && made.classList.contains("pad");
      const empty = written && role === "drive" && !reached.has(position);
      if (made.value !== value || made.blank !== empty) {
        if (written && on.has(position) && !still.matches) made.animate([{scale: 1.18}, {scale: 1}], 220);
        made.textContent = lost || empty ? "" : short(value);
        made.setAttribute("aria-label", `${label(role, position)} ${empty ? "not yet" : lost ? array.padded : number(value)}`);
        paint(made, lost || empty ? 0 : value, walk.most[role]);
        made.classList.toggle("empty", empty);
        [made.value, made.blank] = [value, empty];
      }
      made.classList.toggle("on", on.has(position) || also.has(position));
      made.classList.toggle("also", also.has(position));
      made.classList.remove("best");
    });
  }
  if (walk.how === "max") walk.shares[step].forEach((s, m) => s && cells.window[at("window", step, m)].classList.add("best"));
  $("slider").value = step;
  $("slider").setAttribute("aria-valuetext", `step ${step + 1} of ${walk.terms.length}`);
  $("count").textContent = `step ${step + 1} of ${walk.terms.length}`;
  arithmetic(result);
  hold(held);
  rays();
}

function arithmetic(result) {
  const driver = at("drive", step), [, channel, i, j] = indexOf(arrayOf("drive"), driver);
  const rules = walk.window === null ? [] : [["rows", scene().rows[i]], ["columns", scene().columns[j]]];
  $("cell").textContent = walk.target === "drive" ? label("drive", driver)
    : `${label("drive", driver)} = ${number(arrayOf("drive").values[driver])}`;
  $("rules").replaceChildren(...rules.flatMap(([name, rule]) => [element("dt", {}, name), element("dd", {}, rule)]));
  $("products").replaceChildren(...mosaics());
  const terms = walk.terms[step], sum = terms.reduce((a, b) => a + b, 0);
  let text;
  if (walk.target === "drive") {
    const how = {product: "sum of the products", mean: "sum of the shares", max: "the greatest"}[walk.how];
    const bias = walk.bias ? ` ${number(sum)}, plus b[${channel}] ${number(walk.bias[channel])}` : "";
    text = `${label("drive", driver)} = ${how}${bias} = ${number(result[driver])}`;
  } else {
    const lost = terms.filter((_, m) => targetOf(step, m) < 0).length;
    const name = arrayOf(walk.target).name;
    const verb = {product: "added onto", max: "goes to the greatest of its window, in", mean: "shared out over its window of"}[walk.how];
    text = `${verb} ${name}` + (walk.target === "kernel" && walk.name === "db" ? `: now ${number(result[targetOf(step, 0)])}` : "")
      + (lost ? `; ${lost} of ${terms.length} fall off the edge` : "");
  }
  $("total").textContent = text;
  if (!timer) $("say").textContent = `Step ${step + 1} of ${walk.terms.length}. ${text}`;
}

// The products in the shape of the window, one mosaic for each channel.
function mosaics() {
  const terms = walk.terms[step], most = greatest(terms), places = has("window", step) ? scene().places[step] : [];
  const columnOf = m => places.length ? places[m] % arrayOf("window").shape[3] : 0;
  const width = Math.max(1, new Set(places.map((_, m) => columnOf(m))).size);
  const plane = m => places.length ? Math.floor(places[m] / (arrayOf("window").shape[2] * arrayOf("window").shape[3])) : 0;
  const found = [];
  terms.slice(0, 256).forEach((term, m) => {
    if (!m || plane(m) !== plane(m - 1)) {
      found.push(element("div", {class: "mosaic"}));
      found.at(-1).style.gridTemplateColumns = `repeat(${width}, auto)`;
    }
    found.at(-1).append(product(term, m, most));
  });
  if (terms.length > 256) found.push(element("p", {}, `and ${terms.length - 256} more products`));
  return found;
}

function product(term, m, most) {
  const gathers = walk.target === "drive", lost = targetOf(step, m) < 0;
  const factors = ROLES.filter(role => role !== walk.target && has(role, step))
    .map(role => [label(role, at(role, step, m)), arrayOf(role).values[at(role, step, m)]]);
  const max = walk.how === "max" && gathers, shares = walk.shares?.[step];
  if (shares && !max) factors.push(["share", shares[m]]);
  const made = element("div", {class: "product", title: factors.map(([name]) => name).join(" × ")});
  const value = max ? factors[0][1] : term;
  made.append(three(value));
  if (factors.length > 1) made.append(element("small", {}, factors.map(f => three(f[1])).join(" × ")));
  if (!gathers && !lost) made.append(element("small", {}, `→ ${label(walk.target, targetOf(step, m))}`));
  if (lost && !max) made.append(element("small", {}, "falls off"));
  if (max) made.append(element("small", {}, label("window", at("window", step, m))));
  paint(made, lost ? 0 : value, max ? walk.most.window : most);
  made.classList.toggle("lost", lost || (max && sourceOf(at("window", step, m)) < 0));
  made.classList.toggle("best", max && !!shares[m]);
  return made;
}

// Light from the window to its driver.
function rays() {
  const svg = $("rays"), base = $("stage").getBoundingClientRect();
  svg.replaceChildren();
  const far = has("window", step) ? "window" : "kernel";
  if (!cells.drive || !cells[far]) return;
  const one = cells.drive[at("drive", step)].getBoundingClientRect(), planes = new Map();
  for (const made of cells[far].filter(made => made.matches(".on:not(.also)"))) {
    const {left, right, top, bottom} = made.getBoundingClientRect(), grid = made.closest(".grid");
    const box = planes.get(grid) || [Infinity, Infinity, -Infinity, -Infinity];
    planes.set(grid, [Math.min(box[0], left), Math.min(box[1], top), Math.max(box[2], right), Math.max(box[3], bottom)]);
  }
  const drive = [one.left, one.top, one.right, one.bottom], stacked = $("panels").classList.contains("stacked");
  for (const box of planes.values()) {
    const below = stacked && (box[3] <= drive[1] || drive[3] <= box[1]), axis = below ? 1 : 0;
    const [a, b] = box[axis] < drive[axis] ? [box, drive] : [drive, box];
    const corners = below ? [[a[0], a[3]], [b[0], b[1]], [b[2], b[1]], [a[2], a[3]]]
      : [[a[2], a[1]], [b[0], b[1]], [b[0], b[3]], [a[2], a[3]]];
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
    shape.setAttribute("points", corners.map(([x, y]) => `${x - base.left},${y - base.top}`).join(" "));
    svg.append(shape);
  }
}

// --- what meets a cell: over all steps

function hold(which) {
  held = which;
  for (const role in cells) for (const made of cells[role]) made.classList.remove("link", "held");
  const readout = $("readout");
  if (!held) { readout.textContent = "Point at a cell to see what meets it."; return; }
  const [role, position] = held, array = arrayOf(role), meets = meetings(role, position);
  cells[role][position].classList.add("held");
  for (const [t, m] of meets)
    for (const other of ROLES)
      if (other !== role && has(other, t)) cells[other][at(other, t, m)].classList.add("link");
  readout.replaceChildren(element("b", {}, label(role, position)), said(role, position, array, meets));
}

function meetings(role, position) {
  const found = [];
  walk.terms.forEach((terms, t) => {
    if (!has(role, t)) return;
    terms.forEach((_, m) => {
      const direct = at(role, t, m) === position;
      const repeated = role === "window" && !direct && sourceOf(at(role, t, m)) === position;
      if (direct || repeated) found.push([t, m]);
    });
  });
  return found;
}

function said(role, position, array, meets) {
  const written = role === walk.target, most = 6;
  const outside = isOutside(array, indexOf(array, position)) ? ` (${array.padded})` : "";
  if (!meets.length) return `${outside} meets nothing: no window has it`;
  if (!written) {
    const names = [...new Set(meets.filter(([t, m]) => walk.how !== "max" || walk.shares[t][m]).map(([t, m]) => targetOf(t, m)))]
      .filter(target => target >= 0).map(target => label(walk.target, target));
    const more = names.length > most ? ` and ${names.length - most} more` : "";
    return `${outside} = ${number(array.values[position])} feeds ${names.slice(0, most).join(", ") || "nothing"}${more}`;
  }
  if (outside) return `${outside}: what falls here is lost`;
  const parts = meets.filter(([t, m]) => walk.how !== "max" || walk.shares[t][m])
    .map(([t, m]) => ROLES.filter(r => r !== role && has(r, t)).map(r => label(r, at(r, t, m))).join("·"));
  const more = parts.length > most ? ` and ${parts.length - most} more` : "";
  return ` = ${number(resultAfter(walk.terms.length - 1)[position])} in the end, fed by ${parts.slice(0, most).join(", ")}${more}`;
}

// --- moving about

function go(to) {
  step = Math.max(0, Math.min(walk.terms.length - 1, to));
  show();
}

function choose(name) {
  stop();
  walk = DATA.passes.find(pass => pass.name === name);
  step = Math.min(step, walk.terms.length - 1);
  held = null;
  for (const button of $("passes").children) button.setAttribute("aria-pressed", button.dataset.pass === name);
  $("what").textContent = `${walk.what} ${DATA.cropped}`.trim();
  $("formula").textContent = walk.formula;
  $("slider").max = walk.terms.length - 1;
  build();
  show();
}

function stop() {
  clearInterval(timer);
  timer = 0;
  $("play").setAttribute("aria-pressed", false);
  $("play").setAttribute("aria-label", "Play");
}

function play() {
  if (timer) { stop(); return; }
  if (step === walk.terms.length - 1) go(0);
  $("play").setAttribute("aria-pressed", true);
  $("play").setAttribute("aria-label", "Pause");
  timer = setInterval(() => {
    go(step + 1);
    if (step === walk.terms.length - 1) stop();
  }, Number($("speed").value));
}

function walkGrid(made, key) {
  const {role} = made.dataset, [, , , W] = arrayOf(role).shape, position = Number(made.dataset.at);
  const next = cells[role][position + {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -W, ArrowDown: W}[key]];
  if (!next) return;
  made.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function jump(made) {
  const t = made.dataset.role === "drive" ? scene().drivers.indexOf(Number(made.dataset.at)) : -1;
  if (t >= 0) { stop(); go(t); }
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const inside = event.target.closest?.(".cell"), {key} = event;
  const native = event.target.matches?.("input, select");
  if (native && key !== "Home" && key !== "End" && !/^\d$/.test(key)) return;
  if (inside && key.startsWith("Arrow")) walkGrid(inside, key);
  else if (inside && key === "Enter") jump(inside);
  else if (inside && key === "Escape") inside.blur();
  else if (key === "ArrowRight") { stop(); go(step + 1); }
  else if (key === "ArrowLeft") { stop(); go(step - 1); }
  else if (key === "Home") { stop(); go(0); }
  else if (key === "End") { stop(); go(Infinity); }
  else if (key === " " && !event.target.matches?.("button")) play();
  else if (/^[1-9]$/.test(key) && DATA.passes[key - 1]) choose(DATA.passes[key - 1].name);
  else return;
  event.preventDefault();
});

const cellOf = event => event.target.closest(".cell");
const point = event => { const made = cellOf(event); hold(made ? [made.dataset.role, Number(made.dataset.at)] : null); };
$("panels").addEventListener("pointerover", point);
$("panels").addEventListener("pointerleave", () => hold(null));
$("panels").addEventListener("focusin", point);
$("panels").addEventListener("focusout", () => hold(null));
$("panels").addEventListener("mousedown", event => { if (cellOf(event)) event.preventDefault(); });  // keep the arrows for the steps
$("panels").addEventListener("click", event => { if (cellOf(event)) jump(cellOf(event)); });
$("first").onclick = () => { stop(); go(0); };
$("back").onclick = () => { stop(); go(step - 1); };
$("on").onclick = () => { stop(); go(step + 1); };
$("last").onclick = () => { stop(); go(Infinity); };
$("play").onclick = play;
$("speed").onchange = () => { if (timer) { stop(); play(); } };
$("slider").oninput = () => { stop(); go(Number($("slider").value)); };
addEventListener("resize", fit);
dark.addEventListener("change", () => { build(); show(); });

$("layer").textContent = DATA.layer;
$("facts").replaceChildren(...DATA.facts.map(fact => {
  const [name, value] = fact.split(" : ");
  return element("li", {}, `${FACTS[name] || name} `, element("b", {}, value));
}));
$("sizes").replaceChildren(...DATA.sizes.map(line => element("li", {}, line)));
$("passes").replaceChildren(...DATA.passes.map(pass => {
  const button = element("button", {"data-pass": pass.name}, pass.label);
  button.onclick = () => choose(pass.name);
  return button;
}), ...Object.entries(DATA.leftOut).map(([name, why]) => element("button", {disabled: "", title: why}, name)));
choose(DATA.show);
