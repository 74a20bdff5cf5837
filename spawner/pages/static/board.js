// The board: writes what changes into the page, tells a screen reader the main of it, and asks before an admin's action.
"use strict";
(() => {
  const SPEAK_MS = 5000;
  const PICTURE_MS = 300_000;
  const at = (id) => document.getElementById(id);
  const { api, clock, follow } = window.gpulab;
  const items = new WeakMap();
  let board = null;

  // --- drawing

  const has = (item, names) => names.split(" ").some((name) => Boolean(item[name]));

  function fill(element, item) {
    for (const part of element.querySelectorAll("[data-field]")) {
      const text = String(item[part.dataset.field] ?? "");
      if (part.textContent !== text) part.textContent = text;
    }
    for (const part of element.querySelectorAll("[data-time]")) {
      const value = item[part.dataset.time];
      if (!value || part.dateTime === value) continue;
      part.dateTime = value;
      part.textContent = clock(value);
    }
    for (const part of element.querySelectorAll("[data-when]")) part.hidden = !has(item, part.dataset.when);
    for (const part of element.querySelectorAll("[data-unless]")) part.hidden = has(item, part.dataset.unless);
    for (const part of element.querySelectorAll("[data-width]")) {
      const value = item[part.dataset.width] ?? null;
      part.setAttribute("width", value ?? 0);
      part.closest(".board-bar")?.toggleAttribute("hidden", value === null);
    }
    element.toggleAttribute("data-mine", Boolean(item.mine));
    items.set(element, item);
  }

  function show(element, act, visible, name) {
    const button = element.querySelector(`[data-act=${act}]`);
    if (!button) return;
    button.hidden = !visible;
    if (name) button.setAttribute("aria-label", name);
  }

  function drawGpu(element, gpu) {
    fill(element, gpu);
    element.dataset.state = gpu.state;
    show(element, "drain", !gpu.out, `Drain ${gpu.label}`);
    show(element, "return", Boolean(gpu.out?.subject), `Return ${gpu.label}`);
    show(element, "end", Boolean(gpu.lease) && ["starting", "held"].includes(gpu.state), `End the lab on ${gpu.label}`);
  }

  function drawTicket(element, ticket) {
    fill(element, { ...ticket, number: ticket.number || "now" });
    items.set(element, ticket);
    for (const button of element.querySelectorAll("[data-act]")) {
      button.setAttribute("aria-label", `${button.textContent.trim()}: ${ticket.who}, ${ticket.what}`);
    }
  }

  function drawNode(element, node) {
    fill(element, { ...node, words: node.out ? `out of use: ${node.out.reason}` : "in use" });
    show(element, "drain-node", !node.out, `Drain the node ${node.name}`);
    show(element, "return-node", Boolean(node.out), `Return the node ${node.name}`);
  }

  // Elements are kept, so that the keyboard's place is not lost while the list changes.
  function drawList(list, template, rows, key, draw) {
    if (!list) return;
    const old = new Map([...list.children].map((element) => [element.dataset.id, element]));
    rows.forEach((row, place) => {
      const id = row[key] || `place-${place}`;
      const element = old.get(id) ?? template.content.firstElementChild.cloneNode(true);
      old.delete(id);
      element.dataset.id = id;
      draw(element, row);
      if (list.children[place] !== element) list.insertBefore(element, list.children[place] ?? null);
    });
    for (const element of old.values()) element.remove();
  }

  function drawHead() {
    at("headline").textContent = board.summary.headline;
    at("problem").hidden = !board.problem;
    if (at("problem").textContent !== board.problem) at("problem").textContent = board.problem;
    at("maintenance").hidden = !board.maintenance;
    if (board.maintenance) fill(at("maintenance"), board.maintenance);
    const begin = document.querySelector("[data-act=maintenance]");
    if (begin) {
      begin.textContent = board.maintenance ? "Change the maintenance" : "Begin maintenance";
      document.querySelector("[data-act=end-maintenance]").hidden = !board.maintenance;
    }
  }

  // --- what is said aloud, and not too often

  const changed = new Map();
  let speaking = 0;
  function speak() {
    speaking = 0;
    const rows = [...changed.values()].map((gpu) => `${gpu.label}: ${gpu.words}.`);
    changed.clear();
    at("news").textContent = [...(rows.length <= 3 ? rows : []), board.summary.headline].join(" ");
  }

  follow({
    update(next, ids) {
      const before = board;
      board = next;
      const words = new Map((before?.gpus ?? []).map((gpu) => [gpu.id, gpu.words]));
      for (const gpu of board.gpus) if (before && words.get(gpu.id) !== gpu.words) changed.set(gpu.id, gpu);
      if (before && (changed.size || before.summary.headline !== board.summary.headline)) speaking ||= setTimeout(speak, SPEAK_MS);
      const same = ids && before.gpus.length === board.gpus.length;
      if (same) {
        const elements = new Map([...at("gpus").children].map((element) => [element.dataset.id, element]));
        for (const gpu of board.gpus) if (ids.has(gpu.id)) drawGpu(elements.get(gpu.id), gpu);
      } else drawList(at("gpus"), at("gpu-template"), board.gpus, "id", drawGpu);
      if (!before || before.line !== board.line) {
        drawList(at("line"), at("ticket-template"), board.line, "id", drawTicket);
        at("nobody").hidden = board.line.length > 0;
      }
      const waiting = board.line.filter((ticket) => ticket.number).length;
      at("more").hidden = board.summary.waiting <= waiting;
      at("more").textContent = `${board.summary.waiting - waiting} more wait further back.`;
      if (!before || before.nodes !== board.nodes) drawList(at("nodes"), at("node-template"), board.nodes, "name", drawNode);
      drawHead();
    },
    state(word, sentence) {
      at("live").dataset.state = word;
      at("live").textContent = word === "lost" ? sentence : `${sentence} · last update ${clock(null, true)}`;
    },
  });

  // The picture of the day is drawn by the hub; a newer one is taken from the page itself.
  setInterval(async () => {
    if (document.hidden || at("history").querySelector("details[open]")) return;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("history");
      if (answer.ok && next) at("history").replaceWith(next);
    } catch {
      // The line above the board says that the hub does not answer.
    }
  }, PICTURE_MS);

  // --- actions

  const ask = at("ask");
  let work = null;

  function question({ title, words, label, yes, deadline, run }) {
    at("ask-title").textContent = title;
    at("ask-words").textContent = words;
    at("ask-message-part").hidden = !label;
    at("ask-label").textContent = label ?? "";
    at("ask-message").required = Boolean(label);
    at("ask-message").value = "";
    at("ask-deadline-part").hidden = !deadline;
    at("ask-deadline").value = "";
    at("ask-error").textContent = "";
    at("ask-yes").textContent = yes;
    work = run;
    ask.showModal();
    (label ? at("ask-message") : at("ask-yes")).focus();
  }

  at("ask-no").addEventListener("click", () => ask.close());
  at("ask-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("ask-yes").disabled = true;
    at("ask-error").textContent = "";
    try {
      await work(at("ask-message").value.trim());
      ask.close();
    } catch (error) {
      at("ask-error").textContent = error.message;
    } finally {
      at("ask-yes").disabled = false;
    }
  });

  const mark = (subject, reason) => api("POST", ["gpus", "marks"], { subject, reason });
  const unmark = (subject) => api("DELETE", ["gpus", "marks", subject]);
  const move = (ticket, ahead) => api("POST", ["gpus", "tickets", ticket.id, "move"], { ahead });

  const ACTS = {
    drain: (gpu) => question({
      title: `Drain ${gpu.label}?`, label: "Reason, for everyone on this board", yes: "Drain",
      words: "Who holds it keeps it; nobody new gets it until you return it.", run: (reason) => mark(gpu.device, reason),
    }),
    return: (gpu) => question({
      title: `Return ${gpu.label}?`, yes: "Return", words: `It is out of use: ${gpu.out.reason}`, run: () => unmark(gpu.out.subject),
    }),
    end: (gpu) => question({
      title: `End the lab on ${gpu.label}?`, label: "Message to its owner", yes: "End the lab",
      words: `${gpu.holder ? gpu.holder.user : "The owner"} loses what is not saved; files are kept. They read your message afterwards.`,
      run: (message) => api("POST", ["gpus", "leases", gpu.lease, "end"], { message }),
    }),
    "drain-node": (node) => question({
      title: `Drain the node ${node.name}?`, label: "Reason, for everyone on this board", yes: "Drain",
      words: "Its labs go on; nobody new gets one of its GPUs until you return it.", run: (reason) => mark(node.name, reason),
    }),
    "return-node": (node) => question({
      title: `Return the node ${node.name}?`, yes: "Return", words: `It is out of use: ${node.out.reason}`, run: () => unmark(node.name),
    }),
    front: (ticket) => question({
      title: "To the front?", yes: "To the front", words: `${ticket.who} then goes before everyone else.`, run: () => move(ticket, 1),
    }),
    back: (ticket) => question({
      title: "To the back?", yes: "To the back", words: `${ticket.who} then goes after everyone else.`, run: () => move(ticket, -1),
    }),
    place: (ticket) => question({
      title: "In its own place?", yes: "In its own place", words: `${ticket.who} then stands where the rules put them.`, run: () => move(ticket, 0),
    }),
    cancel: (ticket) => question({
      title: "Cancel the request?", yes: "Cancel the request", words: `${ticket.who} then does not wait any more: ${ticket.what}.`,
      run: () => api("DELETE", ["gpus", "tickets", ticket.id]),
    }),
    maintenance: () => question({
      title: "Maintenance", label: "Message, for everyone", yes: "No new starts", deadline: true,
      words: "No lab starts until you end it. Labs that run go on.",
      run: (message) => {
        const until = at("ask-deadline").value;
        return api("PUT", ["gpus", "maintenance"], { message, ...(until ? { deadline: new Date(until).toISOString() } : {}) });
      },
    }),
    "end-maintenance": () => question({
      title: "End maintenance?", yes: "End maintenance", words: "Labs start again.", run: () => api("DELETE", ["gpus", "maintenance"]),
    }),
  };

  at("board").addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (!button) return;
    const row = button.closest("[data-id]");
    const item = row && items.get(row);
    // Until the first news from the hub a row is only text.
    if (row && !item) return;
    ACTS[button.dataset.act](item);
  });
  window._jupyterhub_page_loaded = true;
})();
