// Shows in JupyterLab what the hub tells the engineer about this lab: a notice, a warning before a stop, maintenance.
//
// A federated extension written by hand: it needs none of JupyterLab's modules, only its documented commands
// `apputils:notify`, `apputils:update-notification` and `apputils:dismiss-notification`, so there is nothing to build. Never
// asks the hub itself: the lab's server does (gpulab_notices.py), with a token that may read this lab's notices and no more.
"use strict";
var _JUPYTERLAB = _JUPYTERLAB === undefined ? {} : _JUPYTERLAB;
(() => {
  const SEEN_MS = 45000;
  const HIDDEN_MS = 120000;
  const MOST_LETTERS = 140;
  const OPEN = "gpulab:open-my-labs";

  function baseUrl() {
    const config = JSON.parse(document.getElementById("jupyter-config-data").textContent);
    return config.baseUrl;
  }

  // As JupyterLab's own requests carry it: a lab answers nobody by cookie alone.
  function xsrf() {
    const found = /(?:^|;\s*)_xsrf=([^;]*)/.exec(document.cookie);
    return found ? { "X-XSRFToken": found[1] } : {};
  }

  function clock(moment) {
    const when = new Date(moment);
    const day = when.toDateString() === new Date().toDateString() ? {} : { day: "numeric", month: "short" };
    return new Intl.DateTimeFormat("en-GB", { ...day, hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(when);
  }

  // The moment first, for JupyterLab cuts what is longer; the hub's pages have all of it.
  function short(text) {
    return text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS - 1).trimEnd()}…` : text;
  }

  function wanted(told) {
    const found = told.notices.map((notice) => ({
      key: `${notice.lease} ${notice.cause}`,
      text: short(notice.stop_at ? `Stop at ${clock(notice.stop_at)}. ${notice.text}` : notice.text),
      type: notice.warning ? "warning" : "info",
      label: notice.restart ? "Restart it (My labs)" : notice.extend_seconds ? "Extend (My labs)" : "My labs",
    }));
    if (told.maintenance) {
      const until = told.maintenance.deadline ? `You have until ${clock(told.maintenance.deadline)}. ` : "";
      found.push({ key: "maintenance", text: short(until + told.maintenance.text), type: "warning", label: "My labs" });
    }
    return found;
  }

  function activate(app) {
    const shown = new Map();
    let home = "";
    let waiting = 0;
    app.commands.addCommand(OPEN, { label: "My labs", execute: () => window.open(home, "_blank", "noopener") });

    async function show(notice) {
      const before = shown.get(notice.key);
      if (before && before.text === notice.text && before.type === notice.type) return;
      const actions = home ? [{ label: notice.label, caption: "Opens the page My labs", commandId: OPEN, displayType: "accent" }] : [];
      const options = { autoClose: false, actions };
      if (before) await app.commands.execute("apputils:dismiss-notification", { id: before.id });
      const id = await app.commands.execute("apputils:notify", { message: notice.text, type: notice.type, options });
      shown.set(notice.key, { id, text: notice.text, type: notice.type });
      if (notice.type === "warning" && window.Notification && Notification.permission === "granted") {
        new Notification("GPU Lab", { body: notice.text, tag: notice.key });
      }
    }

    async function look() {
      clearTimeout(waiting);
      try {
        const answer = await fetch(`${baseUrl()}gpulab/notices`, { cache: "no-store", headers: xsrf() });
        if (answer.ok) {
          const told = await answer.json();
          home = told.home;
          const now = wanted(told);
          for (const notice of now) await show(notice);
          for (const [key, { id }] of [...shown]) {
            if (now.some((notice) => notice.key === key)) continue;
            shown.delete(key);
            await app.commands.execute("apputils:dismiss-notification", { id });
          }
        }
      } catch {
        // The lab or the hub is away for a moment; what was shown stays.
      }
      waiting = setTimeout(look, document.hidden ? HIDDEN_MS : SEEN_MS);
    }

    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) look();
    });
    app.restored.then(look);
  }

  const plugin = { id: "@gpulab/notices:plugin", description: "Notices of the GPU lab.", autoStart: true, activate };
  _JUPYTERLAB["@gpulab/notices"] = {
    get: async () => () => ({ __esModule: true, default: plugin }),
    init: async () => {},
  };
})();
