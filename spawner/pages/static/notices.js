// What a person is told about their labs, on every page: a notice, a warning with *Extend*, and why a lab ended.
"use strict";
(() => {
  const SEEN_MS = 20000;
  const HIDDEN_MS = 60000;
  const place = document.getElementById("lab-notices");
  if (!place) return;
  const user = window.jhdata.user;
  const { api, serverPath } = window.gpulab;
  let shown = "";
  const notified = new Set();

  function button(label, primary, act, status) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = primary ? "btn btn-primary" : "btn lab-quiet";
    made.textContent = label;
    made.addEventListener("click", async () => {
      made.disabled = true;
      status.textContent = "";
      try {
        await act();
        shown = "";
        await look();
      } catch (error) {
        status.textContent = error.message;
        made.disabled = false;
      }
    });
    return made;
  }

  function bar(text, warning, actions) {
    const box = document.createElement("section");
    box.className = `lab-note lab-notice${warning ? " lab-note-warn" : ""}`;
    box.setAttribute("aria-label", warning ? "Warning" : "Notice");
    const words = document.createElement("p");
    words.textContent = text;
    const status = document.createElement("span");
    status.setAttribute("role", "status");
    box.append(words, ...actions.map(([label, act, primary]) => button(label, primary, act, status)), status);
    return box;
  }

  function clock(moment) {
    const when = new Date(moment);
    const day = when.toDateString() === new Date().toDateString() ? {} : { day: "numeric", month: "short" };
    return new Intl.DateTimeFormat("en-GB", { ...day, hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(when);
  }

  function length(seconds) {
    if (seconds < 60) return `${seconds} s`;
    return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
  }

  const named = (server) => (server ? `Lab “${server}”: ` : "");

  function actionsOf(notice) {
    const lease = ["gpus", "leases", notice.lease];
    const actions = [];
    if (notice.restart) {
      const restart = async () => {
        await api("POST", [...lease, "restart"]);
        location.assign(`${window.jhdata.base_url}line`);
      };
      actions.push(["Restart it on the same GPUs", restart, true]);
    }
    if (notice.extend_seconds) {
      actions.push([`Extend by ${length(notice.extend_seconds)}`, () => api("POST", [...lease, "extend"]), true]);
    }
    const stop = async () => {
      await api("DELETE", serverPath(user, notice.server));
      location.reload();
    };
    actions.push(["Stop now", stop, false]);
    return actions;
  }

  function notify(notice, text) {
    const key = notice.lease + notice.cause;
    if (!notice.warning || notified.has(key)) return;
    notified.add(key);
    if (document.hidden && "Notification" in window && Notification.permission === "granted") {
      new Notification("GPU Lab", { body: text, tag: key });
    }
  }

  function draw(told) {
    const bars = [];
    if (told.maintenance) {
      const until = told.maintenance.deadline ? ` Labs that run have until ${clock(told.maintenance.deadline)}.` : "";
      bars.push(bar(told.maintenance.text + until, true, []));
    }
    for (const notice of told.notices) {
      const deadline = notice.stop_at ? ` It stops at ${clock(notice.stop_at)}.` : "";
      const text = named(notice.server) + notice.text + deadline;
      bars.push(bar(text, notice.warning, actionsOf(notice)));
      notify(notice, text);
    }
    told.endings.forEach((ending, index) => {
      const dismiss = ["I have read this", () => api("POST", ["gpus", "endings", "dismiss"]), false];
      const last = index === told.endings.length - 1;
      bars.push(bar(`${named(ending.server)}${ending.text} (${clock(ending.at)})`, true, last ? [dismiss] : []));
    });
    for (const key of [...notified]) {
      if (!told.notices.some((notice) => notice.lease + notice.cause === key)) notified.delete(key);
    }
    place.replaceChildren(...bars);
  }

  async function look() {
    const { data } = await api("GET", ["gpus", "notices"]);
    const text = JSON.stringify(data);
    if (text !== shown) {
      shown = text;
      draw(data);
    }
  }

  async function keepLooking() {
    try {
      await look();
    } catch {
      // The hub restarts or the network is away; what is shown stays, and the next look comes.
    }
    setTimeout(keepLooking, document.hidden ? HIDDEN_MS : SEEN_MS);
  }
  document.addEventListener("DOMContentLoaded", keepLooking);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) look().catch(() => {});
  });
})();
