// Keeps an open page up to date: parts marked `data-live` from the page's own fragments, the output from its bytes.
"use strict";

(() => {
  const TIMEOUT_MS = 20000;
  const SHOWN_LIMIT = 4 * 1024 * 1024; // characters of output that stay in the page
  const failing = new Set();

  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  // A hidden page asks for nothing until somebody looks again.
  const visible = () =>
    !document.hidden
      ? Promise.resolve()
      : new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true })).then(visible);

  async function get(url) {
    const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer;
  }

  function contact(what, works) {
    if (works) failing.delete(what);
    else failing.add(what);
    document.getElementById("contact").hidden = failing.size === 0;
  }

  // Asks for ever; `ask` returns the milliseconds to the next time, or null at the end. Slow stores are asked less often.
  async function repeat(what, firstMs, ask) {
    let pause = firstMs;
    let patience = 1000;
    while (pause !== null) {
      await sleep(pause);
      await visible();
      const begun = performance.now();
      try {
        pause = await ask();
        if (pause) pause = Math.max(pause, 2 * (performance.now() - begun));
        patience = 1000;
        contact(what, true);
      } catch {
        contact(what, false);
        pause = patience;
        patience = Math.min(2 * patience, 15000);
      }
    }
  }

  // Makes `old` like `fresh`, leaving alone what is alike: focus, selection, scrolling and opened details stay.
  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.nodeType !== Node.ELEMENT_NODE) {
      old.replaceWith(fresh.cloneNode(true));
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const before = [...old.childNodes];
    const after = [...fresh.childNodes];
    after.forEach((child, i) => (i < before.length ? morph(before[i], child) : old.append(child.cloneNode(true))));
    before.slice(after.length).forEach((child) => child.remove());
  }

  function keepFresh(url, seconds) {
    return repeat("state", seconds * 1000, async () => {
      const text = await (await get(url)).text();
      const fresh = new DOMParser().parseFromString(text, "text/html");
      for (const part of fresh.querySelectorAll("[data-live]")) {
        const old = document.getElementById(part.id);
        if (old) morph(old, part);
      }
      if (fresh.title) document.title = fresh.title;
      return fresh.querySelector("[data-ended]") ? 30000 : seconds * 1000;
    });
  }

  function followLog(box) {
    const [text, line] = box.children;
    let attempt = Number(box.dataset.attempt);
    let offset = Number(box.dataset.offset);
    const toEnd = () => (box.scrollTop = box.scrollHeight);

    function begin(number) {
      text.replaceChildren();
      if (attempt) {
        const divider = document.createElement("span");
        divider.className = "divider";
        divider.textContent = `attempt ${number}`;
        text.append(divider);
      }
      document.getElementById("log-attempt").textContent = `attempt ${number}`;
      document.getElementById("log-skipped")?.remove();
      attempt = number;
    }

    function append(added) {
      if (!added) return;
      text.append(added);
      let shown = text.textContent.length > SHOWN_LIMIT ? text.textContent.length : 0;
      while (shown > SHOWN_LIMIT && text.childNodes.length > 1) {
        shown -= text.firstChild.textContent.length;
        text.firstChild.remove();
      }
    }

    toEnd();
    return repeat("log", 500, async () => {
      const part = await (await get(`${box.dataset.url}?offset=${offset}&attempt=${attempt}`)).json();
      const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
      if (part.attempt !== attempt) begin(part.attempt);
      append(part.text);
      if (line.textContent !== part.line) line.textContent = part.line;
      offset = part.offset;
      if (follows) toEnd();
      return part.ended ? null : part.more ? 0 : 1000;
    });
  }

  const { refresh, seconds } = document.body.dataset;
  if (refresh) keepFresh(refresh, Number(seconds));
  const log = document.getElementById("log");
  if (log) followLog(log);
})();
