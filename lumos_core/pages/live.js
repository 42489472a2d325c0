"use strict";
// Puts the parts of the page in place as the server sends them. What a reader has opened, scrolled
// or focused stays as it is. The server has escaped all text in the parts.
(() => {
  const link = document.getElementById("link");
  const say = (text) => { if (link.textContent !== text) link.textContent = text; };

  const put = (id, html) => {
    const place = document.getElementById(id);
    if (!place) return;
    const open = [...place.querySelectorAll("details[open]")].map((d) => d.id);
    const scrolled = [...place.querySelectorAll(".scroll")].map((s) => [s.id, s.scrollLeft]);
    const active = place.contains(document.activeElement) ? document.activeElement : null;
    const focused = active && (active.id || (active.parentElement && active.parentElement.id));
    const fold = active && active.matches("summary");
    place.innerHTML = html;
    for (const name of open) {
      const found = document.getElementById(name);
      if (found) found.open = true;
    }
    for (const [name, left] of scrolled) {
      const found = document.getElementById(name);
      if (found) found.scrollLeft = left;
    }
    const again = focused && document.getElementById(focused);
    if (again) (fold ? again.querySelector("summary") : again).focus({ preventScroll: true });
  };

  const connect = () => {
    const source = new EventSource("events");
    source.onopen = () => say("Live");
    source.onmessage = (event) => {
      for (const [id, html] of Object.entries(JSON.parse(event.data))) {
        if (id === "announcement") {
          const heard = document.getElementById("announcement");
          if (heard.textContent !== html) heard.textContent = html;
        } else put(id, html);
      }
    };
    source.addEventListener("problem", (event) => say(JSON.parse(event.data)));
    source.onerror = () => {
      say("The connection is lost; this page shows what was last known. Trying again.");
      if (source.readyState === EventSource.CLOSED) {
        source.close();
        setTimeout(connect, 5000);
      }
    };
  };
  connect();
})();
