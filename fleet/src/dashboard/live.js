// Fetches the main part of the page again when something has changed, and every few seconds so that
// "last seen" stays true. A hidden page is left alone.
"use strict";

const REFRESH_EVERY_MS = 5000;

const main = document.querySelector("main");
const link = document.querySelector("#link");
let stream = null;
let fetching = false;
let again = false;

function say(live) {
  link.textContent = live ? "live" : "not live";
  link.className = live ? "live" : "quiet";
}

async function refresh() {
  if (fetching) {
    again = true;
    return;
  }
  fetching = true;
  try {
    const answer = await fetch("/live");
    if (answer.ok) {
      const part = new DOMParser().parseFromString(await answer.text(), "text/html");
      main.replaceChildren(...part.body.childNodes);
    }
  } catch {
    say(false);
  }
  fetching = false;
  if (again) {
    again = false;
    refresh();
  }
}

function watch() {
  if (document.hidden) {
    stream?.close();
    stream = null;
    return;
  }
  if (stream) return;
  stream = new EventSource("/api/v1/stream");
  stream.addEventListener("open", () => { say(true); refresh(); });
  stream.addEventListener("changed", refresh);
  stream.addEventListener("error", () => say(false));
}

document.addEventListener("visibilitychange", watch);
setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_EVERY_MS);
watch();
