// Keeps the sections of the page up to date while it is seen: the server sends those that changed.
"use strict";

const updates = document.getElementById("updates");
let events = null;

function say(text) {
  if (updates.textContent !== text) updates.textContent = text;
}

function receive(event) {
  for (const [name, html] of Object.entries(JSON.parse(event.data))) {
    document.getElementById(name).innerHTML = html;
  }
  say("Live: updated every second.");
}

// A browser opens few connections to one server: a page that is not seen keeps none.
function follow() {
  if (document.hidden) {
    events?.close();
    events = null;
  } else if (events === null || events.readyState === EventSource.CLOSED) {
    events = new EventSource("events");
    events.onmessage = receive;
    events.onerror = () => {
      say("The server does not answer: what you see is old.");
      // A browser tries again by itself unless the answer was an error.
      if (events.readyState === EventSource.CLOSED) setTimeout(follow, 5000);
    };
  }
}

document.addEventListener("visibilitychange", follow);
follow();
