"use strict";
// Everything shown is made with textContent and setAttribute: captions and file names are data, never markup.

const PAGE_SIZE = 48;
const SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse(document.getElementById("data").textContent);
const { images, masks, groups } = data;
const maskCount = masks.seg.length;
const lowerTexts = data.texts.map((text) => text.toLowerCase());

const byId = (id) => document.getElementById(id);
const score = (thousandths) => (thousandths / data.scale).toFixed(Math.abs(thousandths) < 100 * data.scale ? 2 : 0);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function* range(first, end) {
  for (let index = first; index < end; index++) yield index;
}

const masksOf = (image) => range(images.first[image], images.first[image + 1]);
const groupsOf = (mask) => range(masks.first[mask], masks.first[mask + 1]);
const sizeOf = (group) => groups.first[group + 1] - groups.first[group];

// What is asked of every mask often: its image, its best group (groups are sorted, kept ones and high DoC first), its fates.
const imageOf = new Int32Array(maskCount);
for (const image of range(0, images.name.length)) imageOf.fill(image, images.first[image], images.first[image + 1]);
const bestOf = (mask) => (masks.first[mask] < masks.first[mask + 1] ? masks.first[mask] : -1);
const hasKept = (mask) => bestOf(mask) >= 0 && groups.kept[bestOf(mask)] === 1;
const bestDoc = (mask) => (bestOf(mask) >= 0 ? groups.doc[bestOf(mask)] : -Infinity);

function rivalOf(group, image) {
  const seg = groups.rival === null ? -1 : groups.rival[group];
  if (seg < 0) return -1;
  for (const mask of masksOf(image)) if (masks.seg[mask] === seg) return mask;
  return -1;
}

// Filter and order

const state = { text: "", status: "all", sort: "file", page: 0, found: [], matches: new Uint8Array(maskCount) };

function matchesOf(text, status) {
  const matching = lowerTexts.map((own) => own.includes(text));
  const wantsText = text !== "";
  const matches = new Uint8Array(maskCount);
  for (const mask of range(0, maskCount)) {
    if (status === "none" && hasKept(mask)) continue;
    if (status === "twins" && masks.twins[mask].length === 0) continue;
    if (!wantsText && status !== "kept" && status !== "rejected") {
      matches[mask] = 1;
      continue;
    }
    for (const group of groupsOf(mask)) {
      const fits = status === "kept" ? groups.kept[group] === 1 : status === "rejected" ? groups.kept[group] === 0 : true;
      if (fits && matching[groups.text[group]]) {
        matches[mask] = 1;
        break;
      }
    }
  }
  return matches;
}

function orderOf(found, matches, sort) {
  if (sort === "file") return found;
  const key = (image) => {
    const matching = [...masksOf(image)].filter((mask) => matches[mask]);
    if (sort === "many") return -matching.length;
    const docs = matching.map(bestDoc);
    return sort === "high" ? -Math.max(...docs, -Infinity) : Math.min(...docs, Infinity);
  };
  const keys = new Map(found.map((image) => [image, key(image)]));
  return [...found].sort((one, other) => (keys.get(one) === keys.get(other) ? one - other : keys.get(one) < keys.get(other) ? -1 : 1));
}

function select() {
  state.matches = matchesOf(state.text, state.status);
  const everything = state.text === "" && state.status === "all";
  const found = [];
  for (const image of range(0, images.name.length)) {
    if (everything || [...masksOf(image)].some((mask) => state.matches[mask])) found.push(image);
  }
  state.found = orderOf(found, state.matches, state.sort);
  state.page = 0;
  const count = state.matches.reduce((sum, one) => sum + one, 0);
  byId("found").textContent = `${count.toLocaleString("en")} of ${maskCount.toLocaleString("en")} masks in ${found.length.toLocaleString("en")} images`;
  showPage();
}

// The page of cards

function showPage() {
  const pages = Math.max(1, Math.ceil(state.found.length / PAGE_SIZE));
  const first = state.page * PAGE_SIZE;
  byId("cards").replaceChildren(...state.found.slice(first, first + PAGE_SIZE).map(card));
  for (const text of document.querySelectorAll(".pager .page")) text.textContent = `page ${state.page + 1} of ${pages}`;
  for (const button of document.querySelectorAll(".pager .previous")) button.disabled = state.page === 0;
  for (const button of document.querySelectorAll(".pager .next")) button.disabled = state.page >= pages - 1;
}

function turn(step) {
  state.page += step;
  showPage();
  byId("gallery").scrollIntoView();
}

function card(image) {
  const list = make("ul", { class: "masks" });
  for (const mask of masksOf(image)) list.append(make("li", {}, maskButton(mask)));
  const name = images.name[image];
  const parts = [make("h3", { title: name }, name), picture(image, (mask) => (state.matches[mask] ? "" : "apart"))];
  if (images.problem[image]) parts.push(make("p", { class: "note" }, images.problem[image]));
  if (images.first[image] === images.first[image + 1] && !images.problem[image]) parts.push(make("p", { class: "note" }, "no object found"));
  const item = make("li", {}, ...parts, list);
  // One stop of the tab key a card; the arrow keys go from mask to mask.
  item.querySelectorAll(".masks button").forEach((button, number) => (button.tabIndex = number === 0 ? 0 : -1));
  return item;
}

function maskButton(mask) {
  const best = bestOf(mask);
  const fate = hasKept(mask) ? "kept" : "none";
  const text = best < 0 ? "no candidates in the CSV" : data.texts[groups.text[best]];
  const doc = best < 0 ? "" : score(groups.doc[best]);
  const label = best < 0 ? `mask ${masks.seg[mask]}: ${text}` : `mask ${masks.seg[mask]}: ${text}, DoC ${doc}, ${fate === "kept" ? "kept" : "no expression kept"}`;
  return make(
    "button",
    { type: "button", "data-mask": mask, class: state.matches[mask] ? "" : "apart", "aria-label": label, "aria-haspopup": "dialog" },
    make("span", { class: "seg" }, String(masks.seg[mask])),
    make("span", {}, text),
    make("span", { class: fate }, fate === "none" && best >= 0 ? `${doc} ✗` : doc),
  );
}

// A thumbnail with its masks, large ones below small ones. styleOf: mask -> further style classes.
function picture(image, styleOf) {
  if (!images.jpeg[image]) return make("p", { class: "missing" }, "no picture");
  const [width, height] = [images.width[image], images.height[image]];
  const count = images.first[image + 1] - images.first[image];
  const overlay = draw("svg", { viewBox: `-0.5 -0.5 ${width} ${height}`, "aria-hidden": "true" });
  const drawn = [...masksOf(image)].filter((mask) => masks.path[mask]).sort((one, other) => masks.share[other] - masks.share[one]);
  for (const mask of drawn) {
    const styles = `${hasKept(mask) ? "" : "none"} ${styleOf(mask)}`;
    overlay.append(draw("path", { d: masks.path[mask], class: `case ${styles}`, "data-mask": mask }));
    overlay.append(draw("path", { d: masks.path[mask], class: `edge ${styles}`, "data-mask": mask }));
  }
  const size = Math.max(width, height) / 22;
  for (const mask of drawn) {
    if (styleOf(mask) === "apart") continue;
    overlay.append(draw("text", { x: masks.x[mask], y: masks.y[mask], "font-size": size }, String(masks.seg[mask])));
  }
  const source = `data:image/jpeg;base64,${images.jpeg[image]}`;
  const photo = make("img", { src: source, width, height, decoding: "async", alt: `${images.name[image]} with ${count} masks outlined` });
  return make("div", { class: "picture" }, photo, overlay);
}

// One mask's candidates

let openedMask = -1;

function shownMasks() {
  return state.found.flatMap((image) => [...masksOf(image)].filter((mask) => state.matches[mask]));
}

function openMask(mask) {
  openedMask = mask;
  const image = imageOf[mask];
  const counts = { kept: 0, all: 0 };
  for (const group of groupsOf(mask)) {
    counts.all += sizeOf(group);
    counts.kept += groups.kept[group] * sizeOf(group);
  }
  byId("detail-title").textContent = `${images.name[image]}, mask ${masks.seg[mask]}: ${counts.kept} of ${counts.all} candidates kept`;
  byId("candidates").replaceChildren(...[...groupsOf(mask)].map((group) => row(group, mask)));
  byId("detail-picture").replaceChildren(picture(image, (other) => (other === mask ? "this" : "other")));
  byId("explanation").textContent = about(mask);
  if (!byId("detail").open) byId("detail").showModal();
  byId("detail-title").focus();
  document.querySelector("#detail .body").scrollTop = 0;
  const neighbours = shownMasks();
  const place = neighbours.indexOf(mask);
  byId("mask-before").disabled = place <= 0;
  byId("mask-after").disabled = place < 0 || place === neighbours.length - 1;
}

function step(by) {
  const neighbours = shownMasks();
  const place = neighbours.indexOf(openedMask);
  const next = neighbours[place + by];
  if (place < 0 || next === undefined) return;
  state.page = Math.floor(state.found.indexOf(imageOf[next]) / PAGE_SIZE);
  showPage();
  openMask(next);
}

function row(group, mask) {
  const kept = groups.kept[group] === 1;
  const rival = rivalOf(group, imageOf[mask]);
  const times = sizeOf(group) > 1 ? ` ×${sizeOf(group)}` : "";
  const fate = make("td", { class: "fate" }, kept ? "kept" : reason(group, mask));
  if (!kept && rival >= 0) fate.append(" ", make("button", { type: "button", "data-open": rival }, `mask ${masks.seg[rival]}`));
  const cells = [["DoC", groups.doc], ["m", groups.m], ["b", groups.b], ["uniqueness", groups.uniqueness]];
  return make(
    "tr",
    { class: kept ? "kept" : "rejected", "data-group": group, tabindex: group === bestOf(mask) ? "0" : "-1" },
    make("td", {}, data.texts[groups.text[group]] + times, make("div", { class: "origins" }, originsOf(group))),
    ...cells.map(([name, column]) => make("td", { class: "number", "data-name": name }, column === null ? "–" : score(column[group]))),
    fate,
  );
}

function reason(group, mask) {
  if (masks.only[mask]) return "lower half of the only mask";
  if (rivalOf(group, imageOf[mask]) < 0) return `DoC not over ${data.threshold}`;
  return groups.doc[group] > data.scale ? "too close to" : "beaten by";
}

function originsOf(group) {
  const ways = new Map();
  for (const place of data.origins.length ? range(groups.first[group], groups.first[group + 1]) : []) {
    const [cropSet, strategy] = data.origins[groups.origin[place]];
    ways.set(cropSet, [...(ways.get(cropSet) ?? []), strategy]);
  }
  const noun = groups.noun === null ? "" : `noun “${data.nouns[groups.noun[group]]}”; `;
  return noun + [...ways].map(([cropSet, strategies]) => `${cropSet}: ${shortened(strategies)}`).join("; ");
}

// "top_k_5, top_k_7" as "top_k_5, 7".
function shortened(strategies) {
  const kinds = strategies.map((strategy) => strategy.replace(/[\d.]+$/, ""));
  return strategies.map((strategy, at) => (at > 0 && kinds[at] === kinds[at - 1] ? strategy.slice(kinds[at].length) : strategy)).join(", ");
}

// Marks a row, shows its group's rival in the picture and says in words what happened.
function choose(line) {
  const group = Number(line.dataset.group);
  const rival = rivalOf(group, imageOf[openedMask]);
  for (const other of byId("candidates").children) {
    other.classList.toggle("chosen", other === line);
    other.tabIndex = other === line ? 0 : -1;
  }
  for (const path of document.querySelectorAll("#detail-picture path")) {
    path.classList.toggle("rival", Number(path.dataset.mask) === rival);
  }
  byId("explanation").textContent = explanation(group, openedMask, rival);
}

function about(mask) {
  const twins = masks.twins[mask].length ? ` Duplicate of mask ${masks.twins[mask].join(", ")}.` : "";
  const size = masks.path[mask] ? `Covers ${(masks.share[mask] / data.scale).toFixed(1)}% of the image.` : "Its mask is missing.";
  return `${size}${twins} Choose an expression to see its rival.`;
}

function explanation(group, mask, rival) {
  const text = `“${data.texts[groups.text[group]]}”`;
  const doc = `DoC ${score(groups.doc[group])}`;
  if (masks.only[mask]) return `${text}: ${doc}. The only mask of its image keeps the better half of its candidates.`;
  if (rival < 0) return `${text}: ${doc}.`;
  const fate = groups.kept[group] ? `kept, over ${data.threshold}` : `rejected, not over ${data.threshold}`;
  const place = groups.doc[group] < data.scale ? "fits it better" : "comes next";
  return `${text}: ${doc}, ${fate}. Mask ${masks.seg[rival]} ${place}.`;
}

// Events

function point(mask, on) {
  for (const element of document.querySelectorAll(`#cards [data-mask="${mask}"]`)) element.classList.toggle("pointed", on);
}

function moveInCards(event) {
  const button = event.target.closest("#cards .masks button");
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  if (!button || !(event.key in steps)) return;
  const buttons = [...document.querySelectorAll("#cards .masks button")];
  const next = buttons[buttons.indexOf(button) + steps[event.key]];
  if (next) next.focus();
  event.preventDefault();
}

function moveInDetail(event) {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
  const line = event.target.closest("#candidates tr");
  if (event.key === "ArrowDown") (line ? line.nextElementSibling : byId("candidates").firstElementChild)?.focus();
  if (event.key === "ArrowUp") line?.previousElementSibling?.focus();
  if (event.key.startsWith("Arrow")) event.preventDefault();
}

function listen() {
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const [name, change] of [["text", "input"], ["status", "change"], ["sort", "change"]]) {
    byId(name).addEventListener(change, (event) => {
      state[name] = event.target.value.trim().toLowerCase();
      select();
    });
  }
  for (const button of document.querySelectorAll(".pager .previous")) button.addEventListener("click", () => turn(-1));
  for (const button of document.querySelectorAll(".pager .next")) button.addEventListener("click", () => turn(1));
  const cards = byId("cards");
  cards.addEventListener("click", (event) => {
    const target = event.target.closest("[data-mask]");
    if (target) openMask(Number(target.dataset.mask));
  });
  cards.addEventListener("keydown", moveInCards);
  for (const [name, on] of [["mouseover", true], ["focusin", true], ["mouseout", false], ["focusout", false]]) {
    cards.addEventListener(name, (event) => {
      const target = event.target.closest("[data-mask]");
      if (target) point(target.dataset.mask, on);
    });
  }
  const dialog = byId("detail");
  byId("close").addEventListener("click", () => dialog.close());
  byId("mask-before").addEventListener("click", () => step(-1));
  byId("mask-after").addEventListener("click", () => step(1));
  dialog.addEventListener("keydown", moveInDetail);
  dialog.addEventListener("close", () => document.querySelector(`#cards button[data-mask="${openedMask}"]`)?.focus());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
    const target = event.target.closest("[data-open], [data-mask]");
    if (target) openMask(Number(target.dataset.open ?? target.dataset.mask));
  });
  byId("candidates").addEventListener("focusin", (event) => choose(event.target.closest("tr")));
}

listen();
select();
