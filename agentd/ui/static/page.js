// One script for all pages: what is new is fetched as the same page again, and its marked parts are
// swapped. So there is one rendering, the server's. Reading works without this file.
//
// data-live="event status asks"   this element is fetched again when that comes by the stream
// data-every="5"                  ... and every so many seconds while the page is seen
// Such an element needs an id. A form that posts to /act is sent without leaving the page.
"use strict";

const KINDS = ["event", "status", "asks"];
const PAUSE_MS = 150; // at least, from the end of one refresh to the next
const PAUSE_MAX_MS = 2000;
const PAUSE_TIMES = 4; // as long as the refresh took: a slow page is not asked for all the time
const AWAY_MS = 1500; // a stream that comes back within is no break

const message = document.getElementById("message");
const away = document.getElementById("away");
let stream = null;
let awayTimer = 0;
let seen = document.body.dataset.seen; // the state of the database that is shown
let lastId = "";
let wanted = new Set();
let refreshing = false;
let tag = ""; // of the answer before, from pages that say whether they have changed

function say(text) {
  message.textContent = text;
  message.hidden = !text;
}

// An element in which somebody types, or has chosen something, is left as it is.
function busy(element) {
  const at = document.activeElement;
  if (at && at !== element && element.contains(at) && at.matches("input, textarea, select")) return true;
  return [...element.querySelectorAll("textarea, input[type=text], input[type=search]")]
    .some((field) => field.value !== field.defaultValue);
}

// Of an element that begins above the window: what somebody reads of it, and how far down that is.
function place(element) {
  if (element.getBoundingClientRect().top >= 0) return null;
  const parts = [...element.querySelectorAll("[id]")];
  const read = parts.find((one) => one.getBoundingClientRect().bottom > 0);
  return read ? [read.id, read.getBoundingClientRect().top] : null;
}

function swap(element, fresh) {
  const reads = place(element);
  const open = new Set([...element.querySelectorAll("details[open][id]")].map((one) => one.id));
  const at = document.activeElement;
  const focused = at && element.contains(at) ? at.id : "";
  const node = document.importNode(fresh, true);
  for (const one of node.querySelectorAll("details[id]")) if (open.has(one.id)) one.open = true;
  element.replaceWith(node);
  const again = reads && document.getElementById(reads[0]); // something new may stand above it
  if (again) scrollBy({ top: again.getBoundingClientRect().top - reads[1], behavior: "instant" });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  node.dispatchEvent(new CustomEvent("agentd:swapped", { bubbles: true }));
}

async function refresh() {
  if (refreshing) return;
  refreshing = true;
  const began = performance.now();
  const ids = wanted;
  wanted = new Set();
  try {
    const headers = { "X-Agentd-Again": "1", ...(tag && { "If-None-Match": tag }) };
    const answer = await fetch(location.href, { headers }); // 304: the page is as it was
    if (answer.ok) {
      tag = answer.headers.get("ETag") ?? "";
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      seen = fresh.body.dataset.seen;
      for (const id of ids) {
        const [now, next] = [document.getElementById(id), fresh.getElementById(id)];
        if (!now || !next || now.outerHTML === next.outerHTML) continue;
        if (busy(now)) { wanted.add(id); tag = ""; }
        else swap(now, next);
      }
    } else if (answer.status === 401) {
      say("This page is closed. Run `agentd ui` in a terminal to open it again.");
    }
  } catch {
    for (const id of ids) wanted.add(id); // agentd is away: once the stream is back
  }
  const pause = Math.max(PAUSE_MS, PAUSE_TIMES * (performance.now() - began));
  setTimeout(() => {
    refreshing = false;
    if (wanted.size && stream?.readyState === EventSource.OPEN) refresh();
  }, Math.min(PAUSE_MAX_MS, pause));
}

function refreshAll(selector) {
  for (const element of document.querySelectorAll(selector)) if (element.id) wanted.add(element.id);
  if (wanted.size) refresh();
}

function listen() {
  if (stream || document.hidden) return;
  stream = new EventSource(`/live?seen=${seen}&after=${lastId}`);
  stream.onopen = () => {
    clearTimeout(awayTimer);
    awayTimer = 0;
    away.hidden = true;
  };
  stream.addEventListener("again", () => refreshAll("[data-live]"));
  stream.onerror = () => {
    if (!awayTimer) awayTimer = setTimeout(() => { away.hidden = false; }, AWAY_MS);
    if (stream.readyState === EventSource.CLOSED) { // refused: it does not try again by itself
      stream = null;
      setTimeout(listen, 2000);
    }
  };
  for (const kind of KINDS) {
    stream.addEventListener(kind, (told) => {
      if (told.lastEventId) lastId = told.lastEventId;
      document.dispatchEvent(new CustomEvent(`agentd:${kind}`, { detail: JSON.parse(told.data) }));
      refreshAll(`[data-live~="${kind}"]`);
    });
  }
}

// Nobody looks at a page that is hidden: it costs nothing then.
function look() {
  if (document.hidden) {
    clearTimeout(awayTimer);
    awayTimer = 0;
    stream?.close();
    stream = null;
  } else {
    listen();
  }
}

document.addEventListener("visibilitychange", look);
addEventListener("pagehide", () => stream?.close());
addEventListener("pageshow", (shown) => { if (shown.persisted) { stream = null; listen(); } });

for (const element of document.querySelectorAll("[data-every][id]")) {
  const id = element.id;
  setInterval(() => {
    if (!document.hidden && document.getElementById(id)?.dataset.every) { wanted.add(id); refresh(); }
  }, 1000 * Math.max(1, Number(element.dataset.every) || 1));
}

document.addEventListener("submit", async (sent) => {
  const form = sent.target;
  if (new URL(form.action).pathname !== "/act") return;
  sent.preventDefault();
  const button = sent.submitter;
  const fields = new URLSearchParams(new FormData(form, button));
  if (button) button.disabled = true;
  try {
    const answer = await fetch("/act", {
      method: "POST", body: fields, headers: { Accept: "application/json" },
    });
    const told = await answer.json();
    if (told.go) return location.assign(told.go);
    say(told.message);
    message.classList.toggle("bad", !told.ok);
    if (told.ok) {
      form.reset();
      form.dispatchEvent(new CustomEvent("agentd:done", { bubbles: true, detail: told }));
      document.activeElement?.blur();
      refreshAll("[data-live]");
    }
  } catch {
    say("agentd went away. Whether this was done shows once it is back.");
    message.classList.add("bad");
  } finally {
    if (button) button.disabled = false;
  }
});

document.addEventListener("click", async (clicked) => {
  const button = clicked.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  say("Copied.");
});

listen();
