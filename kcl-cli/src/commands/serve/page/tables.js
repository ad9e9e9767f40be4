// The tables of shards and workers: rows that stay, sorted and filtered.

import { checkpoint, duration, element, mark, put, rate, seconds, STATES } from "./text.js";

const rank = (state) => ["UNOWNED", "STALLED", "HELD", "LAGGING", "PAUSED", "UNKNOWN", "OK", "WAITING-FOR-PARENT", "ENDED"].indexOf(state);
const never = (value) => (value === null ? -1 : value);

export const SHARD_COLUMNS = [
  { title: "Shard", key: (shard) => shard.lease, text: (shard) => shard.lease, opens: true },
  { title: "State", key: (shard) => rank(shard.state), text: (shard) => shard.state, badge: (shard) => shard.state },
  { title: "Owner", key: (shard) => shard.owner ?? "", text: (shard) => (shard.next_owner ? `${shard.owner} → ${shard.next_owner}` : (shard.owner ?? "–")) },
  { title: "Checkpoint", key: (shard) => shard.checkpoint.padStart(130, "0"), text: checkpoint, mono: true },
  { title: "Lag", key: (shard) => never(shard.lag_ms), text: (shard) => duration(shard.lag_ms), number: true },
  { title: "Rate", key: (shard) => never(shard.rate_kib_per_s), text: (shard) => rate(shard.rate_kib_per_s), number: true },
  { title: "Catch-up", key: (shard) => never(shard.catch_up_s), text: (shard) => seconds(shard.catch_up_s), number: true },
  { title: "Attempts", key: (shard) => shard.attempts, text: (shard) => (shard.attempts ? String(shard.attempts) : "–"), number: true },
  { title: "Last progress", key: (shard) => never(shard.last_progress_ms), text: (shard) => duration(shard.last_progress_ms), number: true },
  { title: "Orders", key: (shard) => shard.orders.join(), text: (shard) => shard.orders.join(", ") || "–" },
];

const role = (worker) => (worker.is_leader ? "leader" : worker.is_standby ? "standby" : "–");

export const WORKER_COLUMNS = [
  { title: "Worker", key: (worker) => worker.worker, text: (worker) => worker.worker, opens: true },
  { title: "Live", key: (worker) => Number(worker.is_live), text: (worker) => (worker.is_live ? "live" : "silent"), badge: (worker) => (worker.is_live ? "OK" : "STALLED") },
  { title: "Role", key: role, text: role },
  { title: "Leases", key: (worker) => worker.leases, text: (worker) => String(worker.leases), number: true },
  { title: "Load", key: (worker) => worker.leases, share: (worker, most) => worker.leases / Math.max(1, most), text: () => "" },
  { title: "Of concern", key: (worker) => worker.leases_of_concern, text: (worker) => String(worker.leases_of_concern || "–"), number: true },
  { title: "Incoming", key: (worker) => worker.incoming, text: (worker) => String(worker.incoming || "–"), number: true },
  { title: "Rate", key: (worker) => worker.rate_kib_per_s, text: (worker) => rate(worker.rate_kib_per_s), number: true },
  { title: "Failover", key: (worker) => never(worker.failover_ms), text: (worker) => duration(worker.failover_ms), number: true },
  { title: "Uptime", key: (worker) => never(worker.uptime_ms), text: (worker) => duration(worker.uptime_ms), number: true },
  { title: "Version", key: (worker) => worker.version ?? "", text: (worker) => (worker.is_java ? "java" : (worker.version ?? "–")) },
  { title: "Orders", key: (worker) => worker.orders.join(), text: (worker) => worker.orders.join(", ") || "–" },
];

export class Table {
  constructor(table, columns, id, caption, open, sorted) {
    Object.assign(this, { table, columns, id, open, column: sorted, down: false, rows: new Map() });
    this.heads = columns.map((column, index) => {
      const button = element("button", { type: "button", class: "sort", text: column.title, onclick: () => this.sort(index) });
      return element("th", { scope: "col", class: column.number ? "number" : null }, button);
    });
    this.body = element("tbody");
    table.append(element("caption", { class: "hidden", text: caption }), element("thead", {}, element("tr", {}, ...this.heads)), this.body);
    this.show([]);
  }

  sort(index) {
    this.down = this.column === index ? !this.down : Boolean(this.columns[index].number);
    this.column = index;
    this.show(this.items);
  }

  show(items) {
    this.items = items;
    const { key } = this.columns[this.column];
    const way = this.down ? -1 : 1;
    const keyed = items.map((item) => [key(item), item]);
    keyed.sort(([one, first], [other, second]) => (one < other ? -way : one > other ? way : first[this.id] < second[this.id] ? -1 : 1));
    const most = Math.max(0, ...items.map((item) => item.leases ?? 0));
    this.heads.forEach((head, index) => mark(head, "aria-sort", index === this.column ? (this.down ? "descending" : "ascending") : null));
    const focused = document.activeElement;
    const ids = new Set(items.map((item) => item[this.id]));
    for (const [id, row] of this.rows) {
      if (!ids.has(id)) {
        row.remove();
        this.rows.delete(id);
      }
    }
    let cursor = this.body.firstChild;
    for (const [, item] of keyed) {
      const row = this.row(item, most);
      if (row === cursor) cursor = cursor.nextSibling;
      else this.body.insertBefore(row, cursor);
    }
    // A row that moves loses the focus.
    if (focused !== document.activeElement && this.table.contains(focused)) focused.focus({ preventScroll: true });
  }

  row(item, most) {
    const id = item[this.id];
    let row = this.rows.get(id);
    if (!row) {
      row = element("tr", {}, ...this.columns.map((column) => this.cell(column, id)));
      row.dataset.id = id;
      this.rows.set(id, row);
    }
    this.columns.forEach((column, index) => {
      const cell = row.children[index];
      if (column.share) {
        cell.firstChild.style.setProperty("--share", String(column.share(item, most)));
        return;
      }
      const place = column.opens || column.badge ? cell.firstChild : cell;
      put(place, column.text(item));
      if (column.badge) mark(place, "class", `badge s-${column.badge(item)}`);
    });
    return row;
  }

  cell(column, id) {
    const cell = element(column.opens ? "th" : "td", {
      scope: column.opens ? "row" : null,
      class: [column.number && "number", column.mono && "mono"].filter(Boolean).join(" ") || null,
    });
    if (column.opens) cell.append(element("button", { class: "link", type: "button", onclick: (event) => this.open(id, event.currentTarget) }));
    if (column.badge) cell.append(element("span"));
    if (column.share) cell.append(element("span", { class: "load", "aria-hidden": "true" }));
    return cell;
  }
}

/** The filters above the table of shards. */
export class Filters {
  constructor(changed) {
    this.text = document.getElementById("filter");
    this.state = document.getElementById("states");
    this.ended = document.getElementById("ended");
    this.state.append(...STATES.map((state) => element("option", { value: state, text: state })));
    for (const input of [this.text, this.state, this.ended]) input.addEventListener("input", changed);
  }

  chosen(shards) {
    const words = this.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = this.state.value;
    return shards.filter((shard) => {
      if (state ? shard.state !== state : shard.state === "ENDED" && !this.ended.checked) return false;
      const text = `${shard.lease} ${shard.state} ${shard.owner ?? ""} ${shard.orders.join(" ")} ${shard.concern ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }
}
