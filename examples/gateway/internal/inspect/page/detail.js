"use strict";
// One exchange: what passed, why it was decided so, and how to send it again.

const mask = "REDACTED"; // as package capture writes it

const skipText = {
  content_type: "Neither JSON nor text, so its bytes were not captured.", attachment: "A download: its bytes were not captured.",
  sse: "An event stream: its bytes were not captured.", upgrade: "An upgraded connection: its bytes were not captured.",
  grpc: "gRPC: its bytes were not captured.", range: "A part of something larger: its bytes were not captured.",
  multipart: "A form with files: its bytes were not captured.", no_body: "No body.", encoded: "In a coding that cannot be undone.",
  sampled_out: "The configuration leaves bodies of this route out.", status: "Bodies of such answers are not kept.",
  budget: "There was no memory left for it.", cap: "Longer than what is captured of a body.",
  redaction_failed: "It cannot be searched for secrets, so it is not shown.",
};

// Why no upstream has answered.
const reasons = {
  forced: "degraded", "no-upstream": "all down", open: "breaker open", busy: "all busy",
  unreachable: "unreachable", timeout: "timed out", failed: "they failed",
};

// shown is a value in which masked parts stand out.
function shown(value) {
  return value.split(mask).flatMap((part, i) => (i ? [el("span", { class: "masked", title: "masked: a secret" }, "●●●"), part] : [part]));
}

function headerList(header) {
  const fields = [];
  for (const [name, values] of Object.entries(header || {})) {
    for (const v of values) fields.push(el("dt", {}, name), el("dd", {}, shown(v)));
  }
  return fields.length ? el("dl", { class: "fields" }, fields) : el("p", { class: "small" }, "None.");
}

function hex(base64) {
  const raw = atob(base64), lines = [];
  for (let i = 0; i < raw.length && i < 4096; i += 16) {
    const part = raw.slice(i, i + 16);
    const codes = [...part].map((c) => c.charCodeAt(0).toString(16).padStart(2, "0"));
    lines.push(i.toString(16).padStart(6, "0") + "  " + codes.join(" ").padEnd(48) + " " + part.replace(/[^\x20-\x7e]/g, "·"));
  }
  if (raw.length > 4096) lines.push(`… and ${bytes(raw.length - 4096)} more: the HAR has them`);
  return lines.join("\n");
}

// pretty lays JSON out anew, as pairs of a kind and a text; null if it is none.
// Values stay as they were written: numbers keep all their digits, and a name
// that stands twice stands twice.
function pretty(text) {
  try { JSON.parse(text); } catch { return null; }
  const tokens = text.match(/[{}[\],:]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s{}[\],:"]+/g);
  const parts = [];
  let depth = 0;
  const line = () => "\n" + "  ".repeat(Math.min(depth, 24)); // or a deep one would be all space
  tokens.forEach((t, i) => {
    if (t === "{" || t === "[") {
      depth++;
      parts.push(["", "}]".includes(tokens[i + 1]) ? t : t + line()]);
    } else if (t === "}" || t === "]") {
      depth--;
      parts.push(["", "{[".includes(tokens[i - 1]) ? t : line() + t]);
    } else if (t === ",") parts.push(["", t + line()]);
    else if (t === ":") parts.push(["", ": "]);
    else parts.push([t[0] !== '"' ? "j-value" : tokens[i + 1] === ":" ? "j-name" : "j-text", t]);
  });
  return parts;
}

function jsonView(parts) {
  if (parts.length > 6000) return shown(parts.map(([, t]) => t).join("")); // colours would make it slow
  return parts.map(([kind, t]) => kind ? el("span", { class: kind }, shown(t)) : t);
}

function bodyView(m) {
  const parts = [], type = [m.content_type, bytes(m.size || 0), m.decoded && "decoded from " + m.decoded].filter(Boolean).join(" · ");
  if (m.size || m.body) parts.push(el("p", { class: "small" }, type));
  if (m.body !== undefined && m.body_encoding === "base64") parts.push(el("pre", { class: "hex", tabindex: 0 }, hex(m.body)));
  else if (m.body) {
    const json = pretty(m.body);
    parts.push(el("pre", { tabindex: 0 }, json ? jsonView(json) : shown(m.body)));
  }
  if (m.truncated) parts.push(el("p", { class: "said-so" }, `Only the first ${bytes(m.captured || (m.body || "").length)} of ${bytes(m.size)} are here. ${skipText[m.skipped] || ""}`));
  else if (m.skipped && (m.size || m.skipped !== "no_body")) parts.push(el("p", { class: "said-so" }, skipText[m.skipped] || `Not captured: ${m.skipped}.`));
  if (!parts.length) parts.push(el("p", { class: "small" }, "No body."));
  return parts;
}

// quote makes one word of a shell. What is not printed is written out, in the
// form that bash, zsh and ksh share: pasted as it is, it could end the paste, and
// what follows would run.
const unprinted = /[\0-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/;
function quote(s) {
  if (!unprinted.test(s)) return "'" + s.replaceAll("'", `'\\''`) + "'";
  const octal = (c) => [...new TextEncoder().encode(c)].map((b) => "\\" + b.toString(8).padStart(3, "0")).join("");
  return "$'" + s.replace(/[\\']/g, "\\$&").replace(new RegExp(unprinted, "g"), octal) + "'";
}

function curl(x) {
  const skip = new Set(["Host", "Content-Length", "Connection", "Accept-Encoding", "Transfer-Encoding"]);
  const words = ["curl -g --compressed"];
  if (x.method === "HEAD") words.push("-I");
  else if (x.method !== "GET") words.push("-X " + quote(x.method));
  for (const [name, values] of Object.entries(x.request.header || {})) {
    if (!skip.has(name)) for (const v of values) words.push("-H " + quote(v === "" ? name + ";" : `${name}: ${v}`));
  }
  const body = x.request.body;
  if (body !== undefined && x.request.body_encoding !== "base64") words.push("--data-raw " + quote(body));
  words.push(quote(`${x.scheme}://${x.host}${x.path}${x.query ? "?" + x.query : ""}`));
  const notes = [];
  if (words.some((w) => w.includes(mask))) notes.push("# masked values stand as " + mask);
  if (x.request.truncated || (x.request.size && body === undefined) || x.request.body_encoding) notes.push("# the body is not whole here");
  return [...notes, words.join(" \\\n  ")].join("\n");
}

const units = { 1e9: "a second", 60e9: "a minute", 3600e9: "an hour", 86400e9: "a day" };
const rate = (d) => `${number(d.limit)} ${units[d.window] || "in " + duration(d.window / 1e6)}` + (d.capacity !== d.limit ? `, ${number(d.capacity)} at once` : "");

function why(d, c, brief) {
  const parts = [];
  const title = { refused: "Why it was refused", shadow: "A shadow would have refused it", failed: "Nobody could decide" }[d.verdict] || "What is left";
  parts.push(el("h3", {}, title));
  if (d.reason) parts.push(el("p", {}, el("b", {}, d.policy), ": " + d.reason + "."));
  else {
    const left = d.verdict !== "allowed" && isBucket(d.algorithm) ? `${Number((Math.floor(d.level * 100) / 100).toFixed(2))} of ${number(d.capacity)} was left`
      : d.remaining >= 0 ? `${number(d.remaining)} of ${number(d.capacity)} left` : "";
    parts.push(el("p", {}, el("b", {}, d.policy), ` allows ${rate(d)} (${d.algorithm}). It asked for ${d.cost}; ${left || "nothing was left"}` +
      (d.verdict === "allowed" ? " afterwards." : d.retry >= 2 ** 62 ? ". It can never fit." : `. The same fits after ${duration(d.retry / 1e6)}.`)));
  }
  if (c && !brief) parts.push(curve(c, d));
  if (d.key) parts.push(el("p", { class: "small" }, "key ", el("code", {}, d.key), ` · decided by ${d.source}`, d.delay ? ` · held for ${duration(d.delay / 1e6)}` : ""));
  return el("div", { class: "card" + (d.verdict === "allowed" ? "" : " why") }, parts);
}

// detailView draws what /api/exchanges/{n} has answered.
function detailView(data, actions) {
  const { exchange: x, row, trace: t, curves } = data;
  const status = el("span", { class: "status " + statusClass(row.status) }, row.status || "no answer");
  const decisions = t.decisions || [];
  const order = { failed: 0, refused: 1, shadow: 2, allowed: 3, spared: 4 };
  const cards = [...decisions].sort((a, b) => order[a.verdict] - order[b.verdict]).filter((d) => d.verdict !== "spared")
    .map((d, i) => {
      const c = curves.find((c) => c.policy === d.policy && c.key === d.key);
      const card = why(d, c, i > 0 && d.verdict === "allowed");
      if (c && i === 0 && actions.resetButton) card.append(el("div", { class: "line" }, actions.resetButton(d.policy, d.key)));
      return card;
    });
  const spared = decisions.filter((d) => d.verdict === "spared").map((d) => d.policy);
  const facts = [
    ["when", clock(row.at)], ["client", row.client], ["route", row.route || "none"], ["host", x.host], ["protocol", x.proto],
    ["ended", x.outcome === "ok" ? "" : [x.outcome, x.side && "on the side of the " + x.side, x.phase && "in the phase " + x.phase].filter(Boolean).join(", ")],
    ["refused by", x.refused_by], ["fallback", t.fallback && "answered: " + (reasons[t.fallback] || t.fallback)], ["upstreams", t.failed && "none answered: " + (reasons[t.failed] || t.failed)],
    ...Object.entries(x.attributes || {}),
  ].filter(([, v]) => v);
  const text = curl(x);
  const copied = el("button", { type: "button", id: "copy-curl", onclick: () => actions.copy(text) }, "Copy as curl");
  return [
    el("div", { class: "head" }, el("h2", { tabindex: -1 }, status, ` ${x.method} `, shown(x.path + (x.query ? "?" + x.query : ""))),
      el("button", { type: "button", id: "close", onclick: actions.close }, "Close")),
    el("div", { class: "line" }, copied, el("button", { type: "button", onclick: () => actions.har(row.n) }, "HAR of this one")),
    el("div", {}, el("h3", {}, `Took ${duration(row.ms)}`), el("div", { class: "phases", "aria-hidden": "true" }, phaseBars(row)), el("p", { class: "small" }, phaseText(row))),
    cards,
    spared.length ? el("p", { class: "small" }, `Not charged, as it was refused: ${spared.join(", ")}.`) : null,
    (t.attempts || []).length ? el("div", {}, el("h3", {}, "Upstreams asked"), t.attempts.map((a) =>
      el("div", { class: "step " + (a.side ? "down" : "up") }, el("span", { class: "mono" }, a.upstream),
        el("p", { class: "small" }, [a.status ? "answered " + a.status : `failed: ${a.side}, ${a.phase}`, "after " + duration(a.duration / 1e6),
          a.trigger && a.trigger !== "first" ? "again because of " + a.trigger : ""].filter(Boolean).join(", "))))) : null,
    el("dl", { class: "fields" }, facts.map(([k, v]) => [el("dt", {}, k), el("dd", {}, shown(String(v)))])),
    el("div", {}, el("h3", {}, "Request header"), headerList(x.request.header)),
    el("div", { id: "request-body" }, el("h3", {}, "Request body"), bodyView(x.request)),
    el("div", {}, el("h3", {}, "Response header"), headerList(x.response.header), x.response.trailer ? [el("h3", {}, "Trailer"), headerList(x.response.trailer)] : null),
    el("div", { id: "response-body" }, el("h3", {}, "Response body"), bodyView(x.response)),
    el("details", { class: "more" }, el("summary", {}, "The curl command"), el("pre", { id: "curl", tabindex: 0 }, text)),
  ].flat(2).filter(Boolean);
}
