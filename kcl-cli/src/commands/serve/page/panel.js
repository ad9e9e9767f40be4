// The panel of one shard or worker: why it is as it is, its orders, and buttons for new ones.

import { checkpoint, date, duration, element, put, rate, seconds } from "./text.js";

const SHARD_FACTS = [
  ["Owner", (shard) => (shard.next_owner ? `${shard.owner}, handing over to ${shard.next_owner}` : (shard.owner ?? "none"))],
  ["Lag", (shard) => duration(shard.lag_ms)],
  ["Oldest unfinished", (shard) => duration(shard.freshness_ms)],
  ["Catch-up", (shard) => seconds(shard.catch_up_s)],
  ["Rate", (shard) => rate(shard.rate_kib_per_s)],
  ["Read / finished", (shard) => `${number(shard.read_records_per_s)} / ${number(shard.finished_records_per_s)} records/s`],
  ["Last progress", (shard) => duration(shard.last_progress_ms)],
  ["Checkpoint", (shard) => checkpoint(shard)],
  ["Orders", (shard) => shard.orders.join(", ") || "none"],
  ["Parents", (shard) => shard.parents.join(", ") || "none"],
  ["Children", (shard) => shard.children.join(", ") || "none"],
];

const WORKER_FACTS = [
  ["Leases", (worker) => String(worker.leases)],
  ["Of concern", (worker) => String(worker.leases_of_concern)],
  ["Most that it wants", (worker) => (worker.max_leases === null ? "no limit" : String(worker.max_leases))],
  ["Incoming", (worker) => String(worker.incoming)],
  ["Rate", (worker) => rate(worker.rate_kib_per_s)],
  ["Row written", (worker) => (worker.row_age_ms === null ? "never" : `${duration(worker.row_age_ms)} ago`)],
  ["Uptime", (worker) => duration(worker.uptime_ms)],
  ["Orders", (worker) => worker.orders.join(", ") || "none"],
];

const number = (value) => (value === null ? "–" : value.toFixed(1));

export class Panel {
  constructor(place, settings) {
    Object.assign(this, { place, settings, subject: null });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !place.hidden) this.close();
    });
  }

  /** Shows a shard or a worker; the focus comes back to `from` afterwards. */
  open(kind, id, from, fleet, application) {
    this.subject = { kind, id };
    this.from = from;
    this.application = application;
    this.title = element("h2", { id: "panel-title", tabindex: "-1", text: id });
    this.badge = element("span", { class: "badge" });
    const close = element("button", { type: "button", class: "close", "aria-label": "Close", text: "×", onclick: () => this.close() });
    this.sentences = element("div", { class: "why" });
    this.facts = element("dl", { class: "facts" });
    this.history = element("ol", { class: "history" });
    this.answer = element("p", { class: "answer", role: "status" });
    const parts = [element("div", { class: "panel-head" }, element("div", {}, this.title, this.badge), close)];
    if (kind === "shard") parts.push(element("h3", { text: "Why" }), this.sentences);
    parts.push(element("h3", { text: "Orders" }), this.form(kind, id), this.answer);
    parts.push(element("h3", { text: "Now" }), this.facts);
    if (kind === "shard") parts.push(element("h3", { text: "History of orders" }), this.history);
    this.place.replaceChildren(...parts);
    this.place.hidden = false;
    document.body.classList.add("with-panel");
    this.update(fleet);
    this.title.focus({ preventScroll: true });
  }

  close() {
    this.place.hidden = true;
    this.subject = null;
    document.body.classList.remove("with-panel");
    if (this.from?.isConnected) this.from.focus({ preventScroll: true });
  }

  update(fleet) {
    if (!this.subject) return;
    const { kind, id } = this.subject;
    const item = kind === "shard" ? fleet.shards.find((shard) => shard.lease === id) : fleet.workers.find((worker) => worker.worker === id);
    this.badge.className = "badge";
    if (!item) {
      put(this.badge, "gone from the table");
      this.buttons?.forEach((button) => (button.disabled = true));
      return;
    }
    const state = kind === "shard" ? item.state : item.is_live ? "live" : "silent";
    put(this.badge, state);
    this.badge.classList.add(`s-${kind === "shard" ? state : item.is_live ? "OK" : "STALLED"}`);
    const facts = kind === "shard" ? SHARD_FACTS : WORKER_FACTS;
    if (this.facts.children.length === 0) {
      this.facts.append(...facts.map(([name]) => element("div", {}, element("dt", { text: name }), element("dd"))));
    }
    facts.forEach(([, text], index) => put(this.facts.children[index].lastChild, text(item)));
    if (kind === "shard") {
      this.showHistory(item);
      this.offer(fleet, item);
      this.explain(id);
    }
  }

  /** Asks for the sentences; an answer that comes late for another shard is dropped. */
  async explain(id) {
    try {
      const answer = await fetch(`/api/${encodeURIComponent(this.application)}/shards/${encodeURIComponent(id)}`);
      const document = await answer.json();
      if (this.subject?.id !== id) return;
      const lines = answer.ok ? document.sentences : [document.message];
      while (this.sentences.children.length > lines.length) this.sentences.lastChild.remove();
      lines.forEach((line, index) => {
        if (!this.sentences.children[index]) this.sentences.append(element("p"));
        put(this.sentences.children[index], line);
      });
    } catch {
      // The page says already that the server cannot be reached.
    }
  }

  showHistory(shard) {
    const key = JSON.stringify([shard.order_history, shard.answered_revision, shard.refused]);
    if (this.historyKey === key && this.history.children.length) return;
    this.historyKey = key;
    const orders = [...shard.order_history].reverse();
    this.history.replaceChildren(
      ...orders.map((given) => {
        const isLast = given.revision === shard.orders_revision;
        const answer = isLast && shard.refused ? `refused: ${shard.refused}` : (shard.answered_revision ?? -1) >= given.revision ? "answered" : "not answered yet";
        const lines = [
          element("p", {}, element("strong", { text: given.order }), element("span", { class: "muted", text: ` ${answer}` })),
          element("p", { class: "muted", text: `${date(given.at_ms)}, ${given.author}${given.reason ? `: ${given.reason}` : ""}` }),
        ];
        if (given.checkpoint_before) lines.push(element("p", { class: "muted", text: `the checkpoint before: ${given.checkpoint_before}` }));
        return element("li", {}, ...lines);
      }),
    );
    if (!orders.length) this.history.append(element("li", { class: "muted", text: "No order was given." }));
  }

  form(kind, id) {
    this.buttons = [];
    if (!this.settings.token) return element("p", { class: "muted", text: sentence(this.settings.no_orders ?? "") });
    this.reason = element("input", { id: "reason", type: "text", maxlength: "200", autocomplete: "off", placeholder: "for the next operator who looks" });
    const order = (name, label, more = () => ({}), style = null) => {
      const button = element("button", { type: "button", "data-order": name, class: style, text: label, onclick: () => this.give({ order: name, [kind === "shard" ? "lease" : "worker"]: id, ...more() }) });
      this.buttons.push(button);
      return button;
    };
    const rows = [element("label", { class: "reason" }, "Reason ", this.reason)];
    if (kind === "worker") {
      rows.push(element("div", { class: "row" }, order("exclude", "Exclude"), order("include", "Include"), order("drain", "Drain", undefined, "grave")));
      rows.push(element("p", { class: "muted", text: "Excluded, it gets no further lease. Drained, it hands over those that it has, too. Include ends both." }));
      return element("form", { class: "orders", onsubmit: (event) => event.preventDefault() }, ...rows);
    }
    const count = (name) => element("input", { type: "number", min: "1", step: "1", inputmode: "numeric", "aria-label": name, placeholder: name });
    const [records, kib] = [count("records/s"), count("KiB/s")];
    const value = (input) => (input.value ? Number(input.value) : null);
    this.target = element("select", { "aria-label": "Worker to move to" });
    rows.push(element("div", { class: "row" }, order("pause", "Pause", undefined, "main"), order("resume", "Resume")));
    rows.push(
      element("div", { class: "row" }, records, kib, order("limit", "Limit", () => ({ records: value(records), kib: value(kib) })), this.unlimited(id)),
    );
    rows.push(element("div", { class: "row" }, this.target, order("move", "Move", () => ({ to: this.target.value })), order("release", "Release")));
    this.skipRow = element("div", { class: "row skip-row", hidden: true });
    rows.push(this.skipRow);
    return element("form", { class: "orders", onsubmit: (event) => event.preventDefault() }, ...rows);
  }

  unlimited(id) {
    const button = element("button", { type: "button", "data-order": "unlimit", text: "No limit", onclick: () => this.give({ order: "limit", lease: id, records: null, kib: null }) });
    this.buttons.push(button);
    return button;
  }

  /** What can be ordered depends on the fleet: the workers to move to, the record to skip. */
  offer(fleet, shard) {
    if (!this.settings.token) return;
    const names = fleet.workers.filter((worker) => worker.is_live && !worker.is_java && !worker.orders.length).map((worker) => worker.worker);
    if (this.targets !== names.join()) {
      this.targets = names.join();
      const chosen = this.target.value;
      this.target.replaceChildren(...names.map((name) => element("option", { value: name, text: name })));
      if (names.includes(chosen)) this.target.value = chosen;
    } else if (!this.target.children.length) {
      this.target.append(...names.map((name) => element("option", { value: name, text: name })));
    }
    const record = shard.failing_record;
    if (this.skipRow.dataset.record === (record ?? "") && this.skipRow.children.length) return;
    this.skipRow.dataset.record = record ?? "";
    this.skipRow.hidden = !record;
    if (record) this.ask(shard.lease, record);
  }

  /** A skipped record is not processed, so it takes two presses. */
  ask(lease, record) {
    const skip = element("button", { type: "button", class: "grave", "data-order": "skip", text: `Skip record ${record.length > 16 ? `…${record.slice(-16)}` : record}` });
    skip.addEventListener("click", () => {
      const sure = element("button", { type: "button", class: "grave", "data-order": "skip-confirmed", text: "Skip it, it is not processed" });
      const back = element("button", { type: "button", text: "Keep it" });
      sure.addEventListener("click", () => {
        this.ask(lease, record);
        this.give({ order: "skip", lease, record });
      });
      back.addEventListener("click", () => {
        this.ask(lease, record);
        this.skipRow.firstChild.focus();
      });
      this.skipRow.replaceChildren(sure, back);
      back.focus();
    });
    this.skipRow.replaceChildren(skip);
  }

  async give(order) {
    const reason = this.reason.value.trim();
    if (!reason) {
      this.say("Write a reason first: the row keeps it for the next operator who looks.", "bad");
      this.reason.focus();
      return;
    }
    if (this.isGiving) return;
    this.isGiving = true;
    const answer = this.answer;
    this.say(`${order.order}: ordered, waiting for the answer …`, "");
    try {
      const response = await fetch(`/api/${encodeURIComponent(this.application)}/orders`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-kcl-token": this.settings.token },
        body: JSON.stringify({ ...order, reason }),
      });
      const document = await response.json();
      if (this.answer !== answer) return;
      if (!response.ok) {
        this.say(`Not ordered: ${document.message}`, "bad");
        return;
      }
      const [given] = document;
      this.say(ANSWERS[given.answer](given), given.answer === "obeyed" ? "good" : given.answer === "unowned" ? "" : "bad");
      this.reason.value = "";
    } catch {
      if (this.answer === answer) this.say("The dashboard did not answer: look at the history whether the order stands.", "bad");
    } finally {
      this.isGiving = false;
    }
  }

  say(text, tone) {
    put(this.answer, sentence(text));
    this.answer.className = `answer ${tone}`;
  }
}

const ANSWERS = {
  obeyed: (given) => `${given.order}: obeyed, revision ${given.revision}.`,
  refused: (given) => `${given.order}: refused, ${given.refusal}.`,
  unanswered: (given) => `${given.order}: stands, and is not answered yet. The next owner obeys it, if this one does not.`,
  unowned: (given) => `${given.order}: stands; no worker has the lease, and the next owner obeys it.`,
  planned: (given) => `${given.order}: planned.`,
};

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
