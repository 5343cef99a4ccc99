"use strict";
// The list, the overview, and the feed that both live on.

const $ = (id) => document.getElementById(id);
const kept = [];           // rows, the newest last, sampled when there are many
const maxKept = 1000;
const maxDrawn = 160;      // in the table
const perSecond = 60;      // rows that are kept of the ordinary ones in a second; as many of the others
const view = { token: "", last: 0, cleared: 0, matches: () => true, paused: false, chosen: 0, lost: 0, sampled: 1, state: null, drawn: new Map(), stale: false };

// The token comes in the fragment, which is not sent anywhere, and leaves the
// address bar at once.
function findToken() {
  let t = location.hash.slice(1);
  try { t = decodeURIComponent(t); } catch { /* typed as it is */ }
  if (t) {
    sessionStorage.setItem("weir-token", t);
    history.replaceState(null, "", location.pathname);
  }
  view.token = sessionStorage.getItem("weir-token") || "";
}

async function api(path, options = {}) {
  const token = String.fromCharCode(...new TextEncoder().encode(view.token)); // a field holds bytes
  const res = await fetch("api/" + path, { ...options, headers: { Authorization: "Bearer " + token, ...options.headers } });
  if (res.status === 401) {
    ask();
    throw new Error("the token is not the gateway’s");
  }
  if (!res.ok) throw Object.assign(new Error((await res.json().catch(() => ({}))).error || res.statusText), { told: true });
  return res;
}

function ask(on = true) {
  if (on) live("off", "token needed");
  $("ask").hidden = !on;
  for (const behind of document.querySelectorAll("header, main")) behind.inert = on;
  if (on) $("token").focus();
}

// live says how the feed is. It is a live region, so the same is not said twice.
function live(state, text) {
  $("live").dataset.state = state;
  if ($("live-text").textContent !== text) $("live-text").textContent = text;
}

function say(text) { $("said").textContent = text; }

function fail(err) {
  $("error").textContent = err ? String(err.message || err) : "";
  $("error").hidden = !err;
}

// follow reads the feed for as long as there is one. It is read by fetch, as an
// EventSource could not send the token.
async function follow() {
  for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
    try {
      const res = await api("feed" + (view.last && view.state ? `?after=${view.last}&started=${view.state.started}` : ""));
      live("live", view.paused ? "paused" : "live");
      fail();
      wait = 500;
      const reader = res.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const e of events) receive(e);
      }
    } catch (err) {
      if (!$("ask").hidden) return;
      if (err.told) fail(err);
    }
    live("off", "gone, trying again");
    await new Promise((r) => setTimeout(r, wait));
  }
}

function receive(text) {
  const [, name, data] = /^event: (\w+)\ndata: (.*)$/s.exec(text) || [];
  if (name === "rows") addRows(JSON.parse(data));
  else if (name === "state") {
    const before = view.state;
    view.state = JSON.parse(data);
    view.stale = true;
    if (before && before.started !== view.state.started) forget(0); // another gateway, and other numbers
  }
}

// forget drops the rows that are here, those up to a number for good.
function forget(upTo) {
  kept.length = 0;
  view.cleared = upTo;
  view.last = upTo;
  view.lost = 0;
  draw();
  view.stale = true;
}

// addRows keeps rows: all of them while a person could read them, and a sample
// when there are more. What went wrong is kept first, and a filter is applied
// before, so that a narrow one shows everything.
let second = { at: 0, plain: 0, special: 0, seen: 0 };
function addRows({ rows, lost }) {
  view.lost += lost;
  for (const row of rows) {
    view.last = row.n;
    if (!view.matches(row)) continue;
    const at = Math.floor(row.at / 1000);
    if (at > second.at) {
      view.sampled = Math.max(1, Math.round(second.seen / Math.max(1, second.plain + second.special)));
      second = { at, plain: 0, special: 0, seen: 0, step: Math.max(1, Math.ceil(second.seen / perSecond)) };
    }
    second.seen++;
    const special = row.status >= 400 || row.status === 0 || row.outcome !== "ok" || row.verdict === "shadow" || row.fallback;
    const count = special ? "special" : "plain";
    if (second[count] >= perSecond || (!special && second.step > 1 && second.seen % second.step !== 0)) continue;
    second[count]++;
    kept.push(row);
  }
  if (kept.length > maxKept) kept.splice(0, kept.length - maxKept);
  view.stale = true;
}

// compile makes a predicate of a filter.
function compile(text) {
  const terms = text.trim().split(/\s+/).filter(Boolean).map((word) => {
    const not = word.startsWith("-") && word.length > 1;
    if (not) word = word.slice(1);
    const test = term(word);
    return not ? (r) => !test(r) : test;
  });
  return (r) => terms.every((t) => t(r));
}

function compare(value, get) {
  const [, op, digits] = /^(>=|<=|>|<|)(\d+(?:\.\d+)?)$/.exec(value) || [];
  if (digits === undefined) return () => false;
  const n = Number(digits);
  return { ">=": (r) => get(r) >= n, "<=": (r) => get(r) <= n, ">": (r) => get(r) > n, "<": (r) => get(r) < n, "": (r) => get(r) === n }[op];
}

function term(word) {
  const [, key, value] = /^(\w+):(.*)$/.exec(word.toLowerCase()) || [];
  const has = (get) => (r) => String(get(r) || "").toLowerCase().includes(value);
  switch (key) {
    case "status": {
      const [, digit] = /^([1-5])xx$/.exec(value) || [];
      return digit ? (r) => Math.floor(r.status / 100) === Number(digit) : compare(value, (r) => r.status);
    }
    case "method": return (r) => r.method.toLowerCase() === value;
    case "route": return has((r) => r.route);
    case "path": return has((r) => r.path);
    case "ip": return (r) => (r.client || "").startsWith(value);
    case "policy": return has((r) => r.policy || r.refused_by);
    case "upstream": return has((r) => r.upstream);
    case "ms": return compare(value, (r) => r.ms);
    case "size": return compare(value, (r) => r.size);
    case "is": return {
      refused: (r) => r.verdict === "refused" || !!r.refused_by, shadow: (r) => r.verdict === "shadow",
      error: (r) => r.status >= 500 || r.status === 0 || !["ok", "implicit", "hijacked"].includes(r.outcome),
      fallback: (r) => !!r.fallback, retried: (r) => r.attempts > 1,
    }[value] || (() => false);
  }
  return (r) => (r.path + "?" + (r.query || "")).toLowerCase().includes(word.toLowerCase());
}

function chip(r) {
  if (r.fallback) return el("span", { class: "chip warn" }, el("b", {}, "fallback"), el("span", {}, reasons[r.fallback] || r.fallback));
  if (r.failed) return el("span", { class: "chip bad" }, el("b", {}, "proxy"), el("span", {}, reasons[r.failed] || r.failed));
  if (r.verdict === "refused") {
    return el("span", { class: "chip refused" }, el("b", {}, r.policy), r.retry_ms ? el("span", { title: "the same fits then" }, "in " + duration(r.retry_ms)) : "refused");
  }
  if (r.refused_by) return el("span", { class: "chip refused" }, el("b", {}, r.refused_by), "refused");
  if (r.verdict === "shadow") return el("span", { class: "chip shadow" }, el("b", {}, r.policy), "shadow");
  if (r.verdict === "failed") return el("span", { class: "chip failed" }, el("b", {}, r.policy), "undecided");
  if (!["ok", "implicit", "hijacked"].includes(r.outcome)) return el("span", { class: "chip bad" }, r.outcome.replaceAll("_", " "));
  if (r.remaining === undefined) return "";
  return el("span", { class: "chip" + (r.remaining * 5 <= r.capacity ? " low" : "") }, el("b", {}, r.policy), el("span", { class: "left" }, `${number(r.remaining)} left`));
}

function rowNode(r) {
  const path = r.path + (r.query ? "?" + r.query : "");
  const cell = (cls, ...c) => el("td", { class: cls, role: "gridcell", title: cls === "req" && path.length > 16 ? path : undefined }, ...c);
  const tr = el("tr", { role: "row", tabindex: -1, "aria-selected": String(r.n === view.chosen), "data-n": r.n, class: "new", title: r.route ? "route " + r.route : "no route" },
    cell("time", clock(r.at).slice(0, 8), el("span", { class: "frac" }, clock(r.at).slice(8))), cell("st", el("span", { class: "status " + statusClass(r.status) }, r.status || "—")),
    cell("req", el("span", { class: "method" }, r.method), " ", el("span", { class: "path" }, r.path, r.query ? el("span", { class: "query" }, "?" + r.query) : "")),
    cell("client", r.client || ""), cell("num", bytes(r.size)),
    cell("tk", el("div", { class: "took" }, el("span", { class: "ms" }, duration(r.ms)), spans(r))), cell("by", chip(r)));
  return tr;
}

// draw brings the table up to date. Rows that are there stay the nodes they are,
// so that focus and selection hold.
function draw() {
  const body = $("rows");
  const want = [];
  for (let i = kept.length - 1; i >= 0 && want.length < maxDrawn; i--) if (view.matches(kept[i])) want.push(kept[i]);
  const numbers = new Set(want.map((r) => r.n));
  for (const [n, node] of view.drawn) if (!numbers.has(n)) { node.remove(); view.drawn.delete(n); }
  let before = body.firstChild;
  for (const r of want) {
    let node = view.drawn.get(r.n);
    if (!node) {
      node = rowNode(r);
      view.drawn.set(r.n, node);
    }
    if (node === before) before = before.nextSibling;
    else body.insertBefore(node, before);
  }
  const focusable = body.querySelector('tr[tabindex="0"]');
  if (!focusable && body.firstChild) body.firstChild.tabIndex = 0;
  body.classList.toggle("busy", view.sampled > 1);
  $("empty").hidden = want.length > 0;
  $("empty").textContent = kept.length ? "Nothing that is kept matches this filter. What comes is looked at." : "Nothing has passed yet. Send a request to the gateway, and it appears here.";
}

// held says whether the list must not move: it is read further down, or somebody
// is about to click on it.
let pointed = -Infinity;
function held() {
  return view.paused || performance.now() - pointed < 1500 || $("scroll").scrollTop > 40 || ($("rows").contains(document.activeElement) && document.activeElement.matches(":focus-visible"));
}

function newest() { return view.drawn.size ? Math.max(...view.drawn.keys()) : 0; }

function tick() {
  if (!view.stale) return;
  view.stale = false;
  const notes = [];
  if (view.sampled > 1) notes.push(`Busy: about 1 in ${view.sampled} is listed, errors and refusals first. A filter narrows what is sampled.`);
  if (view.state && view.state.thinned) notes.push(`${number(view.state.thinned)} refusals were only counted.`);
  if (view.lost) notes.push(`${number(view.lost)} came too fast for this page and are not listed.`);
  if (view.state && view.state.lost) notes.push(`The audit has lost ${number(view.state.lost)} records.`);
  $("note").textContent = notes.join(" ");
  $("note").hidden = !notes.length;
  if (held() && view.drawn.size) {
    const top = newest();
    let n = 0;
    for (let i = kept.length - 1; i >= 0 && kept[i].n > top; i--) if (view.matches(kept[i])) n++;
    $("newer").hidden = n === 0;
    $("newer").textContent = view.paused ? `paused: ${n} newer` : `${n} newer ↑`;
  } else {
    $("newer").hidden = true;
    draw();
  }
  if (view.state) overview(view.state);
}

// overview draws the gateway as it is: who is decided by what, and where to.
let overviewText = "";
function overview(s) {
  const last = s.seconds.at(-1) || [0, 0, 0, 0], sum = last.reduce((a, b) => a + b, 0);
  $("per-second").textContent = number(sum);
  $("refused-second").textContent = number(last[2]);
  $("errors-second").textContent = number(last[3]);
  $("total").textContent = number(s.total);
  chart($("chart"), s.seconds);
  if (!$("detail").hidden) return;
  // A button that is being used must not be replaced below the pointer.
  const text = JSON.stringify([s.routes, s.keys, s.actions]);
  if (text === overviewText || ($("overview").contains(document.activeElement) && document.activeElement.matches(":active"))) return;
  overviewText = text;
  const focus = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.id : "";
  $("overview").replaceChildren(
    el("h2", {}, "Right now"),
    s.keys.length ? el("div", { class: "card" }, el("h3", {}, "Busiest keys"), s.keys.slice(0, 6).map((k) => keyView(k, s))) : "",
    ...s.routes.map((r) => routeView(r, s)),
    el("p", { class: "small" }, s.actions ? "What is changed here is logged, and holds until the gateway ends, or the configuration says otherwise." : "This page only looks; admin.actions allows it more."));
  if (focus) $("overview").querySelector(`[data-id="${CSS.escape(focus)}"]`)?.focus();
}

function keyView(k, s) {
  const low = k.level >= 0 && k.level < 1;
  const left = k.level < 0 ? "nobody counts" : `${number(Math.floor(k.level + 1e-6))} of ${number(k.capacity)} left`;
  return el("div", { class: "item" },
    el("span", {}, el("b", {}, k.policy), " ", el("code", { class: "small" }, k.key)),
    s.actions && resetButton(k.policy, k.key),
    el("span", { class: "small" }, `${k.per_second.toFixed(1)} a second · ${left} · ${number(k.refused)} refused`),
    el("span", { class: "meter" + (low ? " low" : ""), "aria-hidden": "true" },
      el("i", { "width%": 100 * Math.max(0, Math.min(1, k.level / Math.max(1, k.capacity))) })));
}

function routeView(r, s) {
  const rules = r.rules.map((l) => el("div", { class: "step limit item" },
    el("span", {}, el("b", {}, l.policy), ` ${l.rate} by ${l.by}`, l.burst ? `, ${number(l.burst)} at once` : "", " ", l.shadow ? el("span", { class: "chip shadow" }, "shadow") : ""),
    s.actions && button(l.shadow ? "Enforce" : "Shadow", "shadow", { route: r.pattern, policy: l.policy, on: !l.shadow }),
    el("span", { class: "small" }, [`${number(l.allowed)} passed`, `${number(l.refused)} refused`, l.shadow_hits || l.shadow ? `${number(l.shadow_hits)} shadow hits` : "",
      l.failed ? `${number(l.failed)} without a key` : "", l.algorithm !== "token bucket" ? l.algorithm : ""].filter(Boolean).join(" · "))));
  const inFlight = r.in_flight.map((f) => el("div", { class: "step wait" }, el("b", {}, f.name), ` ${f.in_use} of ${f.limit || "any number"} in flight`,
    el("p", { class: "small" }, `${f.waiting} waiting · ${f.keys} keys${f.limit !== f.max ? ` · at most ${f.max}` : ""}`)));
  const bandwidth = r.bandwidth.map((b) => el("div", { class: "step wait" }, el("b", {}, b.class || "bandwidth"), b.limit ? " " + b.limit : "",
    el("p", { class: "small" }, `${b.bodies} bodies · ${b.waiting} waiting · ${bytes(b.bytes)} so far`)));
  const upstreams = r.upstreams.map((u) => {
    const bad = u.down || u.ejected_ms > 0 || u.breaker === "open";
    return el("div", { class: "step " + (bad || r.degraded ? "down" : "up") }, el("span", { class: "mono" }, u.name), " ",
      u.down ? el("span", { class: "chip bad" }, "down") : "", u.ejected_ms > 0 ? el("span", { class: "chip bad" }, "ejected for " + duration(u.ejected_ms)) : "",
      u.breaker !== "none" ? el("span", { class: "chip " + ({ closed: "good", open: "bad" }[u.breaker] || "warn") }, "breaker " + u.breaker) : "",
      el("p", { class: "small" }, `${u.in_flight} in flight${u.waiting ? `, ${u.waiting} waiting` : ""}${u.weight > 1 ? `, weight ${u.weight}` : ""}`));
  });
  return el("div", { class: "card" },
    el("div", { class: "head" }, el("span", {}, el("span", { class: "name" }, r.pattern), " ", r.degraded ? el("span", { class: "chip bad" }, "degraded") : "", r.tunnels ? el("span", { class: "chip" }, `${r.tunnels} tunnels`) : ""),
      s.actions && r.can_degrade && button(r.degraded ? "Restore" : "Degrade", "degrade", { route: r.pattern, on: !r.degraded })),
    rules, inFlight, bandwidth, upstreams);
}

function button(text, path, body) {
  return el("button", { type: "button", "data-id": path + body.route + body.policy + body.key, "aria-label": [text, body.policy, body.route].filter(Boolean).join(" "),
    onclick: () => act(path, body) }, text);
}

function resetButton(policy, key) { return button("Reset", "reset", { policy, key }); }

async function act(path, body) {
  try {
    const res = await api(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
    say((await res.json()).did);
    fail();
    view.state = await (await api("state")).json();
    view.stale = true;
    if (view.chosen && !$("detail").hidden) open(view.chosen, true);
  } catch (err) { fail(err); }
}

async function open(n, again) {
  try {
    const data = await (await api("exchanges/" + n)).json();
    mark(n);
    $("detail").replaceChildren(...detailView(data, { close, copy, har, resetButton: view.state && view.state.actions ? resetButton : null }));
    $("detail").hidden = false;
    $("overview").hidden = true;
    if (!again) {
      $("side").scrollTop = 0;
      $("detail").querySelector("h2").focus({ preventScroll: true });
    }
    fail();
  } catch (err) { fail(err); }
}

function mark(n) {
  view.drawn.get(view.chosen)?.setAttribute("aria-selected", false);
  view.chosen = n;
  view.drawn.get(n)?.setAttribute("aria-selected", true);
}

function close() {
  if ($("detail").hidden) return;
  const row = view.drawn.get(view.chosen);
  mark(0);
  $("detail").hidden = true;
  $("overview").hidden = false;
  overviewText = "";
  view.stale = true;
  if (row) row.focus({ preventScroll: true });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
    $("copy-curl").textContent = "Copied";
    setTimeout(() => { if ($("copy-curl")) $("copy-curl").textContent = "Copy as curl"; }, 1500);
  } catch { fail("The browser does not let the page copy: the command stands at the end."); }
}

// har saves what the list shows, or one exchange.
async function har(n) {
  try {
    const filtered = $("filter").value.trim() !== "";
    const list = n ? [n] : filtered ? kept.filter(view.matches).map((r) => r.n) : [];
    if (filtered && !list.length) throw new Error("Nothing matches this filter.");
    const blob = await (await api("har" + (list.length ? "?n=" + list.join(",") : ""))).blob();
    const a = el("a", { href: URL.createObjectURL(blob), download: "weir.har" });
    a.click();
    setTimeout(() => URL.revokeObjectURL(a.href), 10000);
    say("The archive is being saved.");
  } catch (err) { fail(err); }
}

function pause() {
  view.paused = !view.paused;
  $("pause").setAttribute("aria-pressed", view.paused);
  if ($("live").dataset.state === "live") live("live", view.paused ? "paused" : "live");
  view.stale = true;
}

function move(step) {
  const rows = [...$("rows").children];
  if (!rows.length) return;
  const i = rows.indexOf(document.activeElement.closest("tr"));
  const to = rows[Math.max(0, Math.min(rows.length - 1, i + step))];
  for (const r of rows) r.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
  if (!$("detail").hidden && matchMedia("(min-width: 821px)").matches) { mark(Number(to.dataset.n)); open(Number(to.dataset.n), true); }
}

$("rows").addEventListener("click", (e) => { const tr = e.target.closest("tr"); if (tr) open(Number(tr.dataset.n)); });
$("rows").addEventListener("keydown", (e) => {
  const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, Home: -1e6, End: 1e6, PageDown: 12, PageUp: -12 }[e.key];
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (step) { e.preventDefault(); move(step); }
  else if (e.key === "Enter") { e.preventDefault(); open(Number(e.target.closest("tr").dataset.n)); }
  else if (e.key === "p") pause();
});
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape") close();
  else if (e.key === "/" && !e.target.closest("input, textarea")) { e.preventDefault(); $("filter").focus(); }
});
$("rows").addEventListener("pointermove", (e) => { if (e.pointerType === "mouse") pointed = performance.now(); });
$("rows").addEventListener("pointerleave", () => { pointed = -Infinity; });
let typing = 0;
$("filter").addEventListener("input", () => {
  view.matches = compile($("filter").value);
  view.sampled = 1;
  draw();
  clearTimeout(typing);
  typing = setTimeout(refill, 300);
});

// refill looks through all that the gateway keeps: what another filter left out is
// not here.
async function refill() {
  try {
    const { rows } = await (await api("exchanges")).json();
    const here = new Set(kept.map((r) => r.n));
    kept.push(...rows.filter((r) => r.n > view.cleared && r.n <= view.last && !here.has(r.n) && view.matches(r)));
    kept.sort((a, b) => a.n - b.n);
    if (kept.length > maxKept) kept.splice(0, kept.length - maxKept);
    draw();
    say($("filter").value.trim() ? `${kept.filter(view.matches).length} match.` : "No filter.");
  } catch (err) { fail(err); }
}

$("pause").addEventListener("click", pause);
$("clear").addEventListener("click", () => { forget(view.last); say("Cleared."); });
$("har").addEventListener("click", () => har());
$("newer").addEventListener("click", () => { $("scroll").scrollTop = 0; if (view.paused) pause(); document.activeElement.blur(); pointed = -Infinity; draw(); view.stale = true; });
$("ask").addEventListener("submit", (e) => {
  e.preventDefault();
  view.token = $("token").value.trim();
  sessionStorage.setItem("weir-token", view.token);
  $("token").value = "";
  ask(false);
  follow();
});
document.querySelector(".skip").addEventListener("click", (e) => {
  e.preventDefault(); // the fragment is for the token
  ($("rows").querySelector('tr[tabindex="0"]') || $("filter")).focus();
});
window.addEventListener("hashchange", () => location.reload());

setInterval(() => requestAnimationFrame(tick), 250);
findToken();
if (view.token) follow();
else ask();
