// What every page needs: JupyterHub's script loader and window.jhdata, times in the reader's zone, forms that send once.
"use strict";
(() => {
  const { scripts, version, jhdata } = document.currentScript.dataset;
  window.require.config({
    urlArgs: version ? `v=${version}` : "",
    baseUrl: scripts,
    paths: {
      components: "../components",
      jquery: "../components/jquery/dist/jquery.min",
      "js-sha256": "../components/js-sha256/build/sha256.min",
      moment: "../components/moment/moment",
    },
  });
  window.jhdata = JSON.parse(jhdata);

  function localTimes() {
    const today = new Date().toDateString();
    for (const time of document.querySelectorAll("time[datetime]")) {
      const when = new Date(time.dateTime);
      if (Number.isNaN(when.getTime())) continue;
      const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
      const day = when.toDateString() === today ? {} : { day: "numeric", month: "short" };
      time.textContent = new Intl.DateTimeFormat("en-GB", { ...day, ...clock }).format(when);
      time.title = when.toLocaleString();
    }
  }

  function sendOnce(form) {
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) {
        event.preventDefault();
        return;
      }
      form.dataset.sent = "yes";
      const button = event.submitter;
      if (!button) return;
      // A button that is disabled before the browser has collected the fields would not be sent.
      setTimeout(() => {
        button.dataset.idle = button.textContent;
        button.textContent = button.dataset.busy || "Starting …";
        button.disabled = true;
      });
    });
  }

  // A page that comes back from the browser's history must be usable again.
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const form of document.querySelectorAll("form[data-once]")) delete form.dataset.sent;
    for (const button of document.querySelectorAll("button[data-idle]")) {
      button.textContent = button.dataset.idle;
      button.disabled = false;
    }
  });

  document.addEventListener("DOMContentLoaded", () => {
    localTimes();
    document.querySelectorAll("form[data-once]").forEach(sendOnce);
    document.querySelector("[data-focus]")?.focus();
    const reload = document.querySelector("[data-reload-seconds]");
    if (reload) setTimeout(() => location.reload(), 1000 * reload.dataset.reloadSeconds);
  });

  // A browser breaks off requests whenever a network of its computer changes, and on the lab's own server each lab that
  // starts is such a change. What the pages ask for may be asked twice.
  async function patiently(url, options, tries = 3) {
    for (;;) {
      try {
        return await fetch(url, options);
      } catch {
        if (--tries === 0) throw new Error("The hub does not answer. Check your connection and try again.");
        await new Promise((done) => setTimeout(done, 1000));
      }
    }
  }

  // Calls the hub's REST API as the person who is logged in; throws an Error with the hub's sentence.
  window.gpulab = {
    async api(method, path, body) {
      const url = `${window.jhdata.base_url}api/${path.map(encodeURIComponent).join("/")}?_xsrf=${window.jhdata.xsrf_token}`;
      // JupyterHub takes a body from a page only where it says that it is JSON.
      const content = body ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {};
      const answer = await patiently(url, { method, ...content, cache: "no-store" });
      const text = await answer.text();
      let data = null;
      try {
        data = text ? JSON.parse(text) : null;
      } catch {
        // Some successful answers have a body that is not JSON.
      }
      if (!answer.ok) throw new Error(data?.message || `The hub answered with status ${answer.status}. Try again.`);
      return { status: answer.status, data };
    },
    serverPath: (user, server) => (server ? ["users", user, "servers", server] : ["users", user, "server"]),
  };
})();
