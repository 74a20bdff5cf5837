// Home page: stop and remove labs, choose a name for another one, follow labs that are starting or stopping.
"use strict";
(() => {
  const page = document.getElementById("home");
  const { user } = page.dataset;
  const { api, serverPath } = window.gpulab;

  async function act(button, words, work) {
    const row = button.closest("[data-server-name]");
    const status = row.querySelector(".lab-row-status");
    button.disabled = true;
    status.textContent = words;
    try {
      await work(row.dataset.serverName);
    } catch (error) {
      button.disabled = false;
      status.textContent = error.message;
    }
  }

  const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

  // A stop may take longer than its request; the list is drawn again when the hub says that it is over.
  async function settled(name) {
    for (;;) {
      const { data } = await api("GET", ["users", user]);
      const server = data.servers?.[name];
      if (!server?.pending) return;
      await pause(2);
    }
  }

  for (const button of page.querySelectorAll(".stop-server")) {
    button.addEventListener("click", () =>
      act(button, "Stopping; your files are kept …", async (name) => {
        await api("DELETE", serverPath(user, name));
        await settled(name);
        location.reload();
      }),
    );
  }

  for (const button of page.querySelectorAll(".delete-server")) {
    button.addEventListener("click", () => {
      const { serverName } = button.closest("[data-server-name]").dataset;
      if (!window.confirm(`Remove the lab “${serverName}” from this list? Your files are kept.`)) return;
      act(button, "Removing …", async (name) => {
        await api("DELETE", serverPath(user, name), { remove: true });
        location.reload();
      });
    });
  }

  document.getElementById("new-lab")?.addEventListener("submit", (event) => {
    event.preventDefault();
    location.assign(event.target.dataset.spawnUrl + document.getElementById("new-lab-name").value);
  });

  // What was read is remembered by this browser; the lab's log, where it comes from, cannot be written to.
  for (const note of page.querySelectorAll(".lab-killed")) {
    const key = `gpulab-read-${note.dataset.seen}`;
    const button = note.querySelector("button");
    button.hidden = false;
    button.addEventListener("click", () => {
      localStorage.setItem(key, "yes");
      note.remove();
    });
    if (localStorage.getItem(key)) note.remove();
  }

  for (const row of page.querySelectorAll("[data-pending]")) {
    settled(row.dataset.serverName).then(
      () => location.reload(),
      () => {}, // The state shown is then as old as the page; the next visit is right.
    );
  }
  window._jupyterhub_page_loaded = true;
})();
