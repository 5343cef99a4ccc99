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

// levelAt is what a quota holds at a time after a decision. Between decisions a
// bucket fills evenly; the others keep what they have until they begin anew.
function levelAt(c, from, level, at) {
  if (isBucket(c.algorithm)) return Math.min(c.capacity, level + (at - from) * c.limit / c.window_ms);
  return level;
}

// curve draws the level of a quota around the decision d: what is known of its
// past, the moment, and from when on the same request would fit.
function curve(c, d, now) {
  const W = 390, H = 176, L = 26, R = 8, T = 14, B = 26;
  const at = Date.parse(d.at);
  const retry = d.verdict === "allowed" || !(d.retry > 0) || d.retry >= 2 ** 62 ? 0 : d.retry / 1e6;
  const whole = Math.min((d.reset || 0) / 1e6, c.span_ms);
  const begin = Math.min(at - Math.max(c.span_ms * 0.5, 400), c.samples.length ? Math.max(c.samples[0].at, at - c.span_ms) : at);
  const end = at + Math.max(whole * 1.08, retry * 1.6, 400);
  const x = (t) => L + (W - L - R) * (t - begin) / (end - begin);
  const top = Math.max(c.capacity, 1), y = (v) => T + (H - T - B) * (1 - Math.max(0, Math.min(v, top)) / top);
  const past = c.samples.filter((s) => s.at >= begin && s.at < at - 1).map((s) => ({ ...s }));
  past.push({ at, level: d.level, mine: true, allowed: d.verdict === "allowed" ? 1 : 0, refused: d.verdict === "allowed" ? 0 : 1 });
  const points = [];
  let before = c.samples.filter((s) => s.at < begin).pop();
  let last = before ? { at: begin, level: levelAt(c, before.at, before.level, begin) } : null;
  if (last) points.push([x(last.at), y(last.level)]);
  else if (past.length && isBucket(c.algorithm) && c.samples.length < 48) {
    // Nothing is known from before the first decision: it was whole.
    last = { at: begin, level: c.capacity };
    points.push([x(begin), y(c.capacity)]);
  }
  for (const s of past) {
    if (last) {
      const up = levelAt(c, last.at, last.level, s.at);
      if (isBucket(c.algorithm) && up >= c.capacity && last.level < c.capacity) {
        points.push([x(last.at + (c.capacity - last.level) * c.window_ms / c.limit), y(c.capacity)]);
      }
      points.push([x(s.at), y(up)]);
    }
    points.push([x(s.at), y(s.level)]);
    last = s;
  }
  const path = points.map((p, i) => (i ? "L" : "M") + p[0].toFixed(1) + " " + p[1].toFixed(1)).join("");
  const soon = [[x(at), y(d.level)]];
  if (isBucket(c.algorithm)) {
    soon.push([x(at + whole), y(levelAt(c, at, d.level, at + whole))], [x(end), y(levelAt(c, at, d.level, end))]);
  } else {
    const back = Math.min(at + (retry || whole), end);
    soon.push([x(back), y(d.level)], [x(back), y(c.algorithm === "fixed window" ? top : Math.min(top, d.level + 1))],
      [x(end), y(c.algorithm === "fixed window" ? top : Math.min(top, d.level + 1))]);
  }
  const marks = past.map((s) => {
    const X = x(s.at), Y = y(s.level);
    if (s.refused) return svg("path", { class: "no", d: `M${X - 3.5} ${Y - 3.5}l7 7m0 -7l-7 7` });
    return svg("circle", { class: "yes", cx: X, cy: Y, r: 2.6 });
  });
  const grid = [0, top / 2, top].map((v) => [svg("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }),
    svg("text", { x: L - 5, y: y(v) + 3.5, "text-anchor": "end" }, number(v))]);
  const label = (X, text, row, anchor) => svg("text", { x: Math.max(L + 2, Math.min(W - R, X)), y: H - 14 + row * 12, "text-anchor": anchor || (X > W - 60 ? "end" : "middle") }, text);
  const parts = [grid];
  if (path) parts.push(svg("path", { class: "area", d: `${path}L${x(at).toFixed(1)} ${y(0)}L${points[0][0].toFixed(1)} ${y(0)}Z` }), svg("path", { class: "level", d: path }));
  parts.push(svg("path", { class: "soon", d: soon.map((p, i) => (i ? "L" : "M") + p[0].toFixed(1) + " " + p[1].toFixed(1)).join("") }));
  if (d.cost > 0 && d.cost <= top && d.verdict !== "allowed") parts.push(svg("line", { class: "need", x1: L, x2: W - R, y1: y(d.cost), y2: y(d.cost) }));
  parts.push(svg("line", { class: "now", x1: x(at), x2: x(at), y1: T - 6, y2: H - B }), label(x(at), "this request", 0), label(L, duration(at - begin) + " before", 0, "start"));
  if (retry) {
    parts.push(svg("line", { class: "fits", x1: x(at + retry), x2: x(at + retry), y1: T, y2: H - B }),
      svg("circle", { class: "ok", cx: x(at + retry), cy: y(isBucket(c.algorithm) ? levelAt(c, at, d.level, at + retry) : Math.min(top, d.level + 1)), r: 3.4 }),
      label(x(at + retry), "fits after " + duration(retry), x(at + retry) - x(at) < 110 ? 1 : 0));
  }
  parts.push(marks, svg("circle", { class: "this", cx: x(at), cy: y(d.level), r: 7 }));
  const text = `${c.policy} held ${number(d.level)} of ${number(c.capacity)} when this request asked for ${d.cost}` +
    (retry ? `; the same fits after ${duration(retry)}` : "") + `. ${c.allowed} passed and ${c.refused} did not, in all.`;
  return svg("svg", { class: "curve", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": text }, parts.flat(3));
}
