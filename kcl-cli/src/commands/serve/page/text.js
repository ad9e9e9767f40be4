// Numbers as people read them, and elements. Text from the table goes in by textContent alone.

export const STATES = ["OK", "LAGGING", "STALLED", "HELD", "PAUSED", "WAITING-FOR-PARENT", "UNOWNED", "UNKNOWN", "ENDED"];

const two = (number) => String(number).padStart(2, "0");

/** A duration in its two largest units, as `kcl status` writes it. */
export function duration(millis) {
  if (millis === null || millis === undefined) return "–";
  const secs = Math.floor(millis / 1000);
  if (secs < 10) return `${secs}.${Math.floor((millis % 1000) / 100)}s`;
  if (secs < 60) return `${secs}s`;
  const minutes = Math.floor(secs / 60);
  if (minutes < 60) return `${minutes}m${two(secs % 60)}s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours}h${two(minutes % 60)}m`;
  return `${Math.floor(hours / 24)}d${two(hours % 24)}h`;
}

export const seconds = (secs) => (secs === null ? "–" : secs === 0 ? "now" : duration(secs * 1000));

export function rate(kib) {
  if (kib === null || kib === undefined) return "–";
  let rest = kib * 1024;
  if (rest < 1024) return `${rest.toFixed(0)} B/s`;
  for (const unit of ["KiB", "MiB", "GiB"]) {
    rest /= 1024;
    if (rest < 1024 || unit === "GiB") return `${rest.toFixed(1)} ${unit}/s`;
  }
}

export function checkpoint(shard) {
  const text = shard.checkpoint;
  const short = /^\d/.test(text) && text.length > 12 ? `…${text.slice(-12)}` : text;
  return shard.sub_sequence ? `${short}/${shard.sub_sequence}` : short;
}

/** A shard's number where its name has one, for small places. */
export function shortName(shard) {
  const found = /^shardId-0*(\d+)$/.exec(shard.shard);
  return found ? `#${found[1]}` : shard.shard.slice(-10);
}

export const clock = (millis) => new Date(millis).toLocaleTimeString([], { hour12: false });
export const date = (millis) => new Date(millis).toISOString().slice(0, 19).replace("T", " ") + "Z";

/** An element with properties, attributes and children; a string becomes text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Sets what is not set yet, so that an update touches little. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, name, value) {
  if (value === null || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value);
  }
}

export function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
