// The page: takes the states that the server sends, and shows them.

import { Chart } from "./chart.js";
import { Panel } from "./panel.js";
import { Filters, SHARD_COLUMNS, Table, WORKER_COLUMNS } from "./tables.js";
import { clock, duration, element, listed, mark, put, rate, seconds } from "./text.js";

const MOST_CHANGES = 30;
const AGAIN_MS = 3000;
const at = (id) => document.getElementById(id);

class Page {
  constructor(settings) {
    this.settings = settings;
    this.fleet = null;
    this.panel = new Panel(at("panel"), settings);
    const openShard = (id, from) => this.open("shard", id, from);
    this.chart = new Chart(at("charts"), at("legend"), at("tip"), openShard);
    this.shards = new Table(at("shards"), SHARD_COLUMNS, "lease", "Shards with their states, owners and lags", openShard, 0);
    this.workers = new Table(at("workers"), WORKER_COLUMNS, "worker", "Workers with their load", (id, from) => this.open("worker", id, from), 0);
    this.filters = new Filters(() => this.showShards());
    at("colours").addEventListener("change", (event) => this.chart.colour(event.target.value));
    const chooser = at("applications");
    chooser.append(...settings.applications.map((name) => element("option", { value: name, text: name })));
    at("chooser").hidden = settings.applications.length < 2;
    chooser.addEventListener("change", () => this.watch(chooser.value));
    setInterval(() => this.age(), 1000);
  }

  open(kind, id, from) {
    this.panel.open(kind, id, from, this.fleet, this.application);
  }

  /** Watches an application; the browser connects again by itself, or this does. */
  watch(application) {
    this.source?.close();
    clearTimeout(this.again);
    if (this.application !== application) {
      this.fleet = null;
      at("changes").replaceChildren();
      if (this.panel.subject) this.panel.close();
    }
    this.application = application;
    put(at("application"), application);
    document.title = `${application} – kcl`;
    const source = new EventSource(`/api/${encodeURIComponent(application)}/events`);
    this.source = source;
    source.addEventListener("fleet", (event) => {
      this.complain(null);
      this.show(JSON.parse(event.data));
    });
    source.addEventListener("problem", (event) => {
      const { message, last_look_ms: last } = JSON.parse(event.data);
      this.complain(`The lease table cannot be read: ${message}. ${last === null ? "There was no good look yet." : `Shown is the look of ${clock(last)}.`} The next try follows by itself.`);
    });
    source.addEventListener("error", () => {
      const last = this.fleet ? `Shown is the look of ${clock(this.fleet.time_ms)}.` : "";
      this.complain(`kcl serve cannot be reached. ${last} The page connects again by itself.`);
      if (source.readyState === EventSource.CLOSED) this.again = setTimeout(() => this.watch(application), AGAIN_MS);
    });
  }

  complain(text) {
    at("problem").hidden = text === null;
    put(at("problem"), text ?? "");
  }

  show(fleet) {
    const before = this.fleet;
    this.fleet = fleet;
    if (before) this.note(before, fleet);
    const badge = at("state");
    badge.hidden = false;
    put(badge, fleet.summary.state);
    mark(badge, "class", `badge s-${fleet.summary.state}`);
    this.showSummary(fleet);
    this.chart.update(fleet);
    this.workers.show(fleet.workers);
    this.showShards();
    this.panel.update(fleet);
    this.age();
    if (!before) performance.mark("kcl-drawn");
  }

  showShards() {
    if (!this.fleet) return;
    const chosen = this.filters.chosen(this.fleet.shards);
    this.shards.show(chosen);
    put(at("shown"), `${chosen.length} of ${this.fleet.shards.length}`);
  }

  showSummary({ summary, unreadable_rows: unreadable }) {
    const states = Object.entries(summary.states).map(([state, count]) => `${count} ${state}`);
    const tiles = [
      ["Open leases", String(summary.open_leases), states.join(", ")],
      ["Live workers", String(summary.live_workers), summary.leader ? `led by ${summary.leader}` : "no leader"],
      ["Largest lag", duration(summary.max_lag_ms), `known of ${summary.known_lags}`],
      ["Caught up in", seconds(summary.max_catch_up_s), "the slowest shard"],
      ["Finished", rate(summary.rate_kib_per_s), "all shards"],
    ];
    if (unreadable.length) tiles.push(["Unreadable rows", String(unreadable.length), unreadable[0]]);
    const place = at("summary");
    while (place.children.length > tiles.length) place.lastChild.remove();
    tiles.forEach(([name, value, note], index) => {
      if (!place.children[index]) place.append(element("div", {}, element("dt"), element("dd", { class: "value" }), element("dd", { class: "muted" })));
      [name, value, note].forEach((text, part) => put(place.children[index].children[part], text));
      mark(place.children[index].lastChild, "title", note);
    });
  }

  age() {
    if (!this.fleet) return;
    const age = Math.max(0, Date.now() - this.fleet.time_ms);
    put(at("freshness"), `looked at ${clock(this.fleet.time_ms)}${age > 3 * this.settings.interval_ms + 2000 ? `, ${duration(age)} ago` : ""}`);
  }

  /** Says what changed, in words, for eyes and for screen readers. */
  note(before, now) {
    const old = new Map(before.shards.map((shard) => [shard.lease, shard]));
    const born = now.shards.filter((shard) => !old.has(shard.lease));
    const byName = new Map(now.shards.map((shard) => [shard.shard, shard]));
    const name = (shard) => byName.get(shard)?.lease ?? shard;
    const lines = new Set();
    for (const shard of born) {
      if (shard.parents.length > 1) lines.add(`${listed(shard.parents.map(name))} merged into ${shard.lease}.`);
      for (const parent of shard.parents.length === 1 ? shard.parents : []) {
        const children = now.shards.filter((child) => child.parents.includes(parent)).map((child) => child.lease);
        lines.add(`${name(parent)} split into ${listed(children)}.`);
      }
      if (!shard.parents.length) lines.add(`${shard.lease} is new.`);
    }
    const moved = now.shards.filter((shard) => old.has(shard.lease) && old.get(shard.lease).state !== shard.state);
    if (moved.length > 6) lines.add(`${moved.length} shards changed their state.`);
    else for (const shard of moved) lines.add(`${shard.lease} is ${shard.state}, and was ${old.get(shard.lease).state}.`);
    const known = new Map(before.workers.map((worker) => [worker.worker, worker.is_live]));
    for (const worker of now.workers) {
      if (!known.has(worker.worker)) lines.add(`${worker.worker} is new.`);
      else if (known.get(worker.worker) !== worker.is_live) lines.add(`${worker.worker} is ${worker.is_live ? "live again" : "silent"}.`);
    }
    const place = at("changes");
    for (const line of lines) {
      place.prepend(element("li", {}, element("time", { class: "muted", text: clock(now.time_ms) }), " ", element("span", { text: line })));
    }
    while (place.children.length > MOST_CHANGES) place.lastChild.remove();
    at("no-changes").hidden = place.children.length > 0;
  }
}

async function start() {
  try {
    const answer = await fetch("/api/settings");
    const settings = await answer.json();
    const page = new Page(settings);
    page.watch(settings.applications[0]);
  } catch {
    const problem = at("problem");
    problem.hidden = false;
    put(problem, "kcl serve cannot be reached. The page tries again by itself.");
    setTimeout(() => location.reload(), AGAIN_MS);
  }
}

start();
