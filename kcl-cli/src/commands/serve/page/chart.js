// The shards as bars over the hash range, a row for each generation, and lines from parents to children.

import { duration, element, mark, put, shortName } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const SPACE = 2 ** 128;
const OWNERS = 10;
const LAGS = [1e3, 1e4, 6e4, 6e5, 36e5];
const LAG_WORDS = ["under 1s", "1s – 10s", "10s – 1m", "1m – 10m", "10m – 1h", "over 1h"];

const svg = (name, attributes) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

export class Chart {
  constructor(place, legend, tip, open) {
    Object.assign(this, { place, legend, tip, open, streams: new Map(), mode: "state", fleet: null, width: 0, owners: [] });
    new ResizeObserver(() => {
      if (Math.abs(place.clientWidth - this.width) > 1 && this.fleet) this.draw();
    }).observe(place);
    place.addEventListener("pointerover", (event) => this.point(event.target.closest("rect.bar")));
    place.addEventListener("pointerleave", () => this.point(null));
    place.addEventListener("focusin", (event) => this.point(event.target.closest("rect.bar")));
    place.addEventListener("focusout", () => this.point(null));
    place.addEventListener("click", (event) => this.choose(event.target.closest("rect.bar")));
    place.addEventListener("keydown", (event) => this.key(event));
  }

  colour(mode) {
    this.mode = mode;
    if (this.fleet) this.draw();
  }

  update(fleet) {
    this.fleet = fleet;
    this.owners = fleet.workers.map((worker) => worker.worker);
    this.draw();
  }

  draw() {
    this.width = this.place.clientWidth;
    const streams = new Map();
    for (const shard of this.fleet.shards) {
      const name = shard.stream ?? "";
      if (!streams.has(name)) streams.set(name, []);
      streams.get(name).push(shard);
    }
    for (const [name, drawn] of this.streams) {
      if (!streams.has(name)) {
        drawn.figure.remove();
        this.streams.delete(name);
      }
    }
    for (const [name, shards] of streams) {
      if (!this.streams.has(name)) this.streams.set(name, new Stream(this, name));
      this.streams.get(name).draw(shards, this.width);
    }
    this.explain();
  }

  tone(shard) {
    if (this.mode === "owner") {
      return shard.owner === null || shard.state === "ENDED" ? "o-none" : `o${this.owners.indexOf(shard.owner) % OWNERS}`;
    }
    if (this.mode === "lag") {
      if (shard.lag_ms === null || shard.state === "ENDED") return "l-none";
      const index = LAGS.findIndex((most) => shard.lag_ms < most);
      return `l${index < 0 ? LAGS.length : index}`;
    }
    return `s-${shard.state}`;
  }

  explain() {
    const shown = new Map();
    for (const shard of this.fleet.shards) {
      const tone = this.tone(shard);
      if (shown.has(tone)) continue;
      if (this.mode === "owner") shown.set(tone, tone === "o-none" ? "no owner" : shard.owner);
      else if (this.mode === "lag") shown.set(tone, tone === "l-none" ? "unknown or ended" : LAG_WORDS[Number(tone.slice(1))]);
      else shown.set(tone, shard.state);
    }
    const entries = [...shown].sort(([one], [other]) => (one < other ? -1 : 1));
    const many = this.mode === "owner" && this.owners.length > OWNERS;
    const words = entries.map(([tone, word]) => [tone, many && tone !== "o-none" ? `${word} …` : word]);
    const key = JSON.stringify(words);
    if (this.legendKey === key) return;
    this.legendKey = key;
    this.legend.replaceChildren(
      ...words.map(([tone, word]) => element("li", {}, element("span", { class: `swatch ${tone}` }), element("span", { text: word }))),
    );
  }

  shardOf(bar) {
    return bar && this.fleet.shards.find((shard) => shard.lease === bar.dataset.lease);
  }

  choose(bar) {
    if (bar) this.open(bar.dataset.lease, bar);
  }

  point(bar) {
    const shard = this.shardOf(bar);
    this.tip.hidden = !shard;
    if (!shard) return;
    put(this.tip, describe(shard));
    const place = bar.getBoundingClientRect();
    const width = this.tip.offsetWidth;
    this.tip.style.left = `${Math.min(Math.max(8, place.left + place.width / 2 - width / 2), innerWidth - width - 8)}px`;
    this.tip.style.top = `${place.bottom + 8}px`;
  }

  // One bar of each chart is in the tab order; arrows lead to the others.
  key(event) {
    const bar = event.target.closest("rect.bar");
    if (!bar) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(bar);
      return;
    }
    const stream = [...this.streams.values()].find((drawn) => drawn.bars.get(bar.dataset.lease) === bar);
    const next = stream?.neighbour(bar.dataset.lease, event.key);
    if (next) {
      event.preventDefault();
      stream.rove(next);
      stream.bars.get(next).focus();
    }
  }
}

function describe(shard) {
  const parts = [shard.lease, shard.state, shard.owner ?? "no owner"];
  if (shard.lag_ms !== null) parts.push(`${duration(shard.lag_ms)} behind`);
  if (shard.orders.length) parts.push(shard.orders.join(", "));
  return parts.join(" · ");
}

/** The chart of one stream. */
class Stream {
  constructor(chart, name) {
    this.chart = chart;
    this.bars = new Map();
    this.words = new Map();
    this.lines = new Map();
    this.places = new Map();
    this.svg = svg("svg", { role: "group", "aria-label": `Shards of ${name || "the stream"} over the hash range, by generation` });
    this.layers = ["axis", "lines", "bars", "words"].map((layer) => svg("g", { class: layer }));
    this.layers.filter((_, index) => index !== 2).forEach((layer) => layer.setAttribute("aria-hidden", "true"));
    this.svg.append(...this.layers);
    this.apart = element("p", { class: "apart" });
    this.figure = element("figure", { class: "stream" }, element("figcaption", { class: "muted", text: name }), this.svg, this.apart);
    this.figure.firstChild.hidden = !name;
    chart.place.append(this.figure);
  }

  draw(shards, width) {
    const known = shards.filter((shard) => shard.hash_start !== null && shard.hash_end !== null);
    this.aside(shards.filter((shard) => !known.includes(shard)));
    this.svg.toggleAttribute("hidden", known.length === 0);
    const rows = [...new Set(known.map((shard) => shard.generation))].sort((one, other) => one - other);
    const height = rows.length === 1 ? 44 : rows.length <= 6 ? 28 : rows.length <= 20 ? 18 : 10;
    const gap = rows.length <= 6 ? 24 : rows.length <= 20 ? 14 : 8;
    const left = rows.length > 1 ? 34 : 0;
    const inner = width - left - 1;
    const total = Math.max(1, rows.length) * (height + gap) - gap + 22;
    mark(this.svg, "viewBox", `0 0 ${width} ${total}`);
    mark(this.svg, "width", width);
    mark(this.svg, "height", total);
    this.places.clear();
    for (const shard of known) {
      const start = (Number(shard.hash_start) / SPACE) * inner + left;
      const end = (Number(shard.hash_end) / SPACE) * inner + left;
      const space = end - start > 6 ? 2 : end - start > 2.5 ? 0.5 : 0;
      this.places.set(shard.lease, {
        x: start + space / 2,
        y: rows.indexOf(shard.generation) * (height + gap),
        width: Math.max(0.6, end - start - space),
        height,
        row: shard.generation,
        shard,
      });
    }
    this.drawAxis(rows, left, inner, height, gap, total);
    this.drawBars(known);
    this.drawLines(known);
    this.drawWords(known);
  }

  drawAxis(rows, left, inner, height, gap, total) {
    const key = JSON.stringify([rows, left, inner, height]);
    if (this.axisKey === key) return;
    this.axisKey = key;
    const parts = [];
    if (left) {
      rows.forEach((row, index) => {
        const label = svg("text", { x: 0, y: index * (height + gap) + height / 2 + 4, class: "label" });
        label.textContent = `gen ${row}`;
        parts.push(label);
      });
    }
    for (let step = 0; step <= 4; step += 1) {
      const x = left + (inner * step) / 4;
      const label = svg("text", { x, y: total - 2, class: "label", "text-anchor": step === 0 ? "start" : step === 4 ? "end" : "middle" });
      label.textContent = ["0", "¼", "½", "¾", "2¹²⁸"][step];
      parts.push(svg("line", { x1: x, x2: x, y1: 0, y2: total - 16, class: "tick" }), label);
    }
    this.layers[0].replaceChildren(...parts);
  }

  drawBars(known) {
    const { bars, places, chart } = this;
    for (const [lease, bar] of bars) {
      if (!places.has(lease)) {
        bar.remove();
        bars.delete(lease);
      }
    }
    for (const shard of known) {
      let bar = bars.get(shard.lease);
      const place = places.get(shard.lease);
      if (!bar) {
        bar = svg("rect", { role: "button", tabindex: -1, rx: 2 });
        bar.dataset.lease = shard.lease;
        bars.set(shard.lease, bar);
        this.layers[2].append(bar);
      }
      for (const name of ["x", "y", "width", "height"]) mark(bar, name, name === "x" || name === "width" ? place[name].toFixed(2) : place[name]);
      mark(bar, "rx", place.width > 6 ? 3 : 0);
      mark(bar, "class", `bar ${chart.tone(shard)}${shard.state === "ENDED" ? " ended" : ""}`);
      mark(bar, "aria-label", describe(shard));
    }
    if (!this.active || !bars.has(this.active)) this.rove(known.at(0)?.lease);
  }

  rove(lease) {
    if (this.active) this.bars.get(this.active)?.setAttribute("tabindex", -1);
    this.active = lease;
    this.bars.get(lease)?.setAttribute("tabindex", 0);
  }

  neighbour(lease, key) {
    const here = this.places.get(lease);
    const middle = here.x + here.width / 2;
    const all = [...this.places];
    const nearest = (candidates, distance) =>
      candidates.reduce((best, one) => (!best || distance(one[1]) < distance(best[1]) ? one : best), null)?.[0];
    const aside = (place) => Math.abs(place.x + place.width / 2 - middle);
    switch (key) {
      case "ArrowLeft":
        return nearest(all.filter(([, place]) => place.row === here.row && place.x < here.x), aside);
      case "ArrowRight":
        return nearest(all.filter(([, place]) => place.row === here.row && place.x > here.x), aside);
      case "ArrowUp":
        return nearest(all.filter(([, place]) => place.row < here.row), (place) => (here.row - place.row) * 1e5 + aside(place));
      case "ArrowDown":
        return nearest(all.filter(([, place]) => place.row > here.row), (place) => (place.row - here.row) * 1e5 + aside(place));
      case "Home":
        return nearest(all.filter(([, place]) => place.row === here.row), (place) => place.x);
      case "End":
        return nearest(all.filter(([, place]) => place.row === here.row), (place) => -place.x);
      default:
        return undefined;
    }
  }

  drawLines(known) {
    const { lines, places } = this;
    const byShard = new Map(known.map((shard) => [shard.shard, places.get(shard.lease)]));
    const wanted = new Map();
    for (const shard of known) {
      const child = places.get(shard.lease);
      for (const name of shard.parents) {
        const parent = byShard.get(name);
        if (!parent || parent.y >= child.y) continue;
        // It leaves and arrives where both have the same keys.
        const from = Math.max(parent.x, child.x);
        const to = Math.min(parent.x + parent.width, child.x + child.width);
        const x = to > from ? (from + to) / 2 : parent.x + parent.width / 2;
        const top = parent.y + parent.height;
        const end = to > from ? x : child.x + child.width / 2;
        wanted.set(`${name} ${shard.shard}`, `M${x.toFixed(1)} ${top}C${x.toFixed(1)} ${top + 12} ${end.toFixed(1)} ${child.y - 12} ${end.toFixed(1)} ${child.y}`);
      }
    }
    for (const [key, line] of lines) {
      if (!wanted.has(key)) {
        line.remove();
        lines.delete(key);
      }
    }
    for (const [key, path] of wanted) {
      if (!lines.has(key)) {
        lines.set(key, svg("path", { class: "line" }));
        this.layers[1].append(lines.get(key));
      }
      mark(lines.get(key), "d", path);
    }
  }

  drawWords(known) {
    const { words, places } = this;
    const wanted = new Map();
    for (const shard of known) {
      const place = places.get(shard.lease);
      if (place.height < 16) continue;
      const whole = `${shortName(shard)} ${shard.state}`;
      const text = place.width > whole.length * 7 + 10 ? whole : place.width > shortName(shard).length * 7 + 8 ? shortName(shard) : null;
      if (text) wanted.set(shard.lease, [text, place, shard.state]);
    }
    for (const [lease, word] of words) {
      if (!wanted.has(lease)) {
        word.remove();
        words.delete(lease);
      }
    }
    for (const [lease, [text, place, state]] of wanted) {
      if (!words.has(lease)) {
        words.set(lease, svg("text", { "text-anchor": "middle" }));
        this.layers[3].append(words.get(lease));
      }
      const word = words.get(lease);
      put(word, text);
      mark(word, "x", (place.x + place.width / 2).toFixed(1));
      mark(word, "y", place.y + place.height / 2 + 4);
      mark(word, "class", `word ${state === "ENDED" ? "faint" : this.chart.tone(places.get(lease).shard)}`);
    }
  }

  aside(shards) {
    this.apart.hidden = shards.length === 0;
    const key = shards.map((shard) => shard.lease).join();
    if (this.apartKey === key) return;
    this.apartKey = key;
    this.apart.replaceChildren(
      element("span", { class: "muted", text: "Hash range unknown: " }),
      ...shards.flatMap((shard) => [
        element("button", { class: "link", type: "button", text: shard.lease, onclick: (event) => this.chart.open(shard.lease, event.target) }),
        " ",
      ]),
    );
  }
}
