"use strict";
// Making elements, and the pictures of time and of buckets. Text only ever
// becomes a text node: what passes a gateway is written by strangers.

const svgNS = "http://www.w3.org/2000/svg";

// el makes an element: attributes, then children, strings among them.
function el(name, attrs, ...children) {
  return fill(document.createElement(name), attrs, children);
}

function svg(name, attrs, ...children) {
  return fill(document.createElementNS(svgNS, name), attrs, children);
}

function fill(e, attrs, children) {
  for (const [k, v] of Object.entries(attrs || {})) {
    if (k === "onclick") e.addEventListener("click", v);
    else if (k === "width%") e.style.width = v + "%";
    else if (v !== undefined && v !== false && v !== null) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.flat(3).filter((c) => c !== undefined && c !== null && c !== false && c !== ""));
  return e;
}

function clock(ms) {
  const d = new Date(ms), two = (n) => String(n).padStart(2, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, "0")}`;
}

function duration(ms) {
  if (ms === undefined) return "";
  if (ms < 0.001) return "0";
  if (ms < 1) return Math.round(ms * 1000) + " µs";
  if (ms < 10) return Number(ms.toFixed(1)) + " ms";
  if (ms < 1000) return Math.round(ms) + " ms";
  if (ms < 60e3) return Number((ms / 1000).toFixed(ms < 10e3 ? 1 : 0)) + " s";
  if (ms < 3600e3) return Math.round(ms / 60e3) + " min";
  return Number((ms / 3600e3).toFixed(1)) + " h";
}

function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1024 || unit === "GiB") return (n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)) + " " + unit;
    n /= 1024;
  }
}

function number(n) {
  return n < 100 && n % 1 ? n.toFixed(1) : Math.round(n).toLocaleString("en");
}

function statusClass(status) {
  if (status === 429) return "refused";
  if (status >= 500 || status === 0) return "server";
  return status >= 400 ? "client" : "ok";
}

const phases = [["waiting", "waiting_ms"], ["limiter", "limiter_ms"], ["upstream", "upstream_ms"], ["body", "body_ms"]];
const phaseNames = { waiting: "waiting", limiter: "limiter", upstream: "upstream’s first byte", body: "body" };

function phaseText(row) {
  return phases.filter(([, f]) => row[f] > 0).map(([name, f]) => `${phaseNames[name]} ${duration(row[f])}`).join(", ");
}

function phaseBars(row) {
  const sum = phases.reduce((n, [, f]) => n + row[f], 0) || 1;
  return phases.filter(([, f]) => row[f] > 0).map(([name, f]) => el("i", { class: "s-" + name, "width%": 100 * row[f] / sum }));
}

// spans is the bar of a row. Its length is logarithmic, as a second and a
// millisecond stand side by side; its parts are in proportion.
function spans(row) {
  const length = Math.min(100, 100 * Math.log1p(row.ms * 4) / Math.log1p(40000));
  return el("div", { class: "spans", role: "img", "aria-label": phaseText(row), title: phaseText(row) },
    el("div", { "width%": Math.max(3, length) }, phaseBars(row)));
}

// chart draws the last minute, a column for each second.
function chart(node, seconds) {
  const most = Math.max(4, ...seconds.map((s) => s.reduce((a, b) => a + b, 0)));
  const names = ["k-ok", "k-client", "k-refused", "k-server"], width = 240 / 60;
  const bars = [];
  seconds.forEach((counts, i) => {
    let y = 40;
    counts.forEach((n, c) => {
      if (n === 0) return;
      const height = 38 * n / most;
      y -= height;
      bars.push(svg("rect", { class: names[c], x: (i * width).toFixed(1), y: y.toFixed(1), width: width - 1, height: height.toFixed(1) }));
    });
  });
  node.replaceChildren(...bars);
  const sum = (c) => seconds.reduce((n, s) => n + s[c], 0);
  node.setAttribute("aria-label", `In the last minute: ${sum(0)} passed, ${sum(1)} were 4xx, ${sum(2)} were 429, ${sum(3)} were 5xx. At most ${most} in a second.`);
}

const isBucket = (algorithm) => algorithm === "token bucket" || algorithm === "leaky bucket";

// curve draws the level of a quota around the decision d: what is known of its
// past, the moment, and from when on the same request would fit.
function curve(c, d) {
  const W = 390, H = 176, L = 26, R = 8, T = 14, B = 26;
  const at = c.soon[0][0], top = Math.max(c.capacity, 1);
  const x = (t) => L + (W - L - R) * (t - c.begin) / (c.end - c.begin);
  const y = (v) => T + (H - T - B) * (1 - Math.max(0, Math.min(v, top)) / top);
  const path = (line) => line.map(([t, v], i) => `${i ? "L" : "M"}${x(t).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const marks = c.marks.map((m) => {
    const X = x(m.at), Y = y(m.level);
    if (m.refused) return svg("path", { class: "no", d: `M${X - 3.5} ${Y - 3.5}l7 7m0 -7l-7 7` });
    return svg("circle", { class: "yes", cx: X, cy: Y, r: 2.6 });
  });
  const grid = [0, top / 2, top].map((v) => [svg("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }),
    svg("text", { x: L - 5, y: y(v) + 3.5, "text-anchor": "end" }, number(v))]);
  const label = (X, text, row, anchor) => svg("text", { x: Math.max(L + 2, Math.min(W - R, X)), y: H - 14 + row * 12, "text-anchor": anchor || (X > W - 60 ? "end" : "middle") }, text);
  const past = path(c.past);
  const parts = [grid, svg("path", { class: "area", d: `${past}L${x(at).toFixed(1)} ${y(0)}L${x(c.past[0][0]).toFixed(1)} ${y(0)}Z` }),
    svg("path", { class: "level", d: past }), svg("path", { class: "soon", d: path(c.soon) })];
  if (d.cost > 0 && d.cost <= top && d.verdict !== "allowed") parts.push(svg("line", { class: "need", x1: L, x2: W - R, y1: y(d.cost), y2: y(d.cost) }));
  parts.push(svg("line", { class: "now", x1: x(at), x2: x(at), y1: T - 6, y2: H - B }), label(x(at), "this request", 0), label(L, duration(at - c.begin) + " before", 0, "start"));
  if (c.fits) {
    const X = x(c.fits[0]);
    parts.push(svg("line", { class: "fits", x1: X, x2: X, y1: T, y2: H - B }), svg("circle", { class: "ok", cx: X, cy: y(c.fits[1]), r: 3.4 }),
      label(X, "fits after " + duration(c.fits[0] - at), X - x(at) < 110 ? 1 : 0));
  }
  parts.push(marks, svg("circle", { class: "this", cx: x(at), cy: y(d.level), r: 7 }));
  const text = `${c.policy} held ${number(d.level)} of ${number(c.capacity)} when this request asked for ${d.cost}` +
    (c.fits ? `; the same fits after ${duration(c.fits[0] - at)}` : "") + `. ${c.allowed} passed and ${c.refused} did not, in all.`;
  return svg("svg", { class: "curve", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": text }, parts.flat(3));
}
