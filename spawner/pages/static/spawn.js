// Spawn form: the address after a refused start still carries the XSRF token, which JupyterHub would take for an option of
// the lab when the page is loaded again. Keeps the numbers of the form fresh, and never the choice: that is the person's.
"use strict";
if (location.search.includes("_xsrf=")) history.replaceState(null, "", location.pathname);
(() => {
  const now = document.getElementById("gpus-now");
  const time = document.getElementById("gpus-time");
  if (!now || !time) return;
  const { clock, follow } = window.gpulab;
  const write = (element, text) => {
    if (element && element.textContent !== text) element.textContent = text;
  };

  function drawGpu(row, gpu) {
    const since = gpu.since ?? "";
    const free = gpu.state === "free";
    // Nothing new: the words stay as the hub wrote them.
    if (row.dataset.state === undefined && (row.dataset.since ?? "") === since && row.classList.contains("is-free") === free) return;
    row.dataset.state = gpu.state;
    row.dataset.since = since;
    row.classList.toggle("is-free", free);
    write(row.querySelector(".lab-gpu-state"), since ? `${gpu.words} since ${clock(since)}` : gpu.words);
  }

  function drawProfile(card, profile) {
    const wanted = Number(card.dataset.gpus);
    const short = profile.free < wanted;
    const note = card.querySelector(".lab-shortage");
    if (!note) return;
    note.hidden = !short;
    write(note, short ? `Needs ${wanted} GPU${wanted === 1 ? "" : "s"}; ${profile.free || "none"} free right now.` : "");
    write(card.querySelector(".lab-wait"), profile.wait);
  }

  follow({
    update(board) {
      const { free, total } = board.summary;
      write(document.getElementById("gpus-free"), `${free} of ${total} GPU${total === 1 ? "" : "s"} free`);
      const gpus = new Map(board.gpus.map((gpu) => [gpu.id, gpu]));
      for (const row of now.querySelectorAll("[data-unit]")) {
        const gpu = gpus.get(row.dataset.unit);
        if (gpu) drawGpu(row, gpu);
      }
      const profiles = new Map(board.profiles.map((profile) => [profile.key, profile]));
      for (const card of document.querySelectorAll("[data-profile]")) {
        const profile = profiles.get(card.dataset.profile);
        if (profile) drawProfile(card, profile);
      }
    },
    state(word) {
      write(document.getElementById("gpus-state"), word === "live" ? "Live, last update at" : "Taken at");
      if (word === "lost") return;
      write(time, clock(null));
      time.dateTime = new Date().toISOString();
    },
  });
})();
window._jupyterhub_page_loaded = true;
