// Progress page: follows the hub's event stream until the lab is ready, has failed or was cancelled.
"use strict";
(() => {
  const page = document.getElementById("pending");
  const { user, server, formUrl, progressUrl } = page.dataset;
  const at = (id) => document.getElementById(id);
  const began = Date.now() - 1000 * page.dataset.elapsed;
  let over = false;

  function clock() {
    const seconds = Math.max(0, Math.round((Date.now() - began) / 1000));
    return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
  at("elapsed").textContent = clock();
  const ticking = setInterval(() => (at("elapsed").textContent = clock()), 1000);

  function note(text) {
    if (!text || at("progress-log").lastElementChild?.dataset.text === text) return;
    const line = document.createElement("li");
    line.className = "progress-log-event";
    line.dataset.text = text;
    line.textContent = `${clock()}  ${text}`;
    at("progress-log").append(line);
  }

  function fail(event) {
    over = true;
    clearInterval(ticking);
    const cancelled = /^Spawn cancelled/.test(event.message || "");
    const place = at("failure-message");
    if (event.html_message) {
      // Drawn by the hub's own templates; the page's Content-Security-Policy allows no script in it.
      place.innerHTML = event.html_message;
    } else {
      const words = (event.message || "").replace(/^Spawn failed(: )?/, "");
      place.textContent = cancelled
        ? "The start was cancelled."
        : `${words || "The lab could not be started."} Try again; if it happens again, tell your administrator at what time.`;
    }
    at("pending-title").textContent = server ? `The lab “${server}” did not start` : "Your lab did not start";
    document.title = "Did not start – GPU Lab";
    if (place.querySelector("button")) at("back-to-form").classList.replace("btn-primary", "lab-quiet");
    at("pending-card").hidden = true;
    at("failure").hidden = false;
    at("failure").focus();
  }

  const stream = new EventSource(progressUrl);
  // The hub tells everything from the beginning whenever the stream is taken up again.
  stream.onopen = () => at("progress-log").replaceChildren();
  stream.onmessage = (message) => {
    if (over) return;
    const event = JSON.parse(message.data);
    if (event.failed) {
      stream.close();
      fail(event);
      return;
    }
    if (event.progress !== undefined) at("progress-bar").value = event.progress;
    if (event.message) at("progress-message").textContent = event.ready ? "Ready; opening JupyterLab" : event.message;
    note(event.message);
    if (event.ready) {
      over = true;
      stream.close();
      // The hub answers this same address with a redirect to the lab.
      location.reload();
    }
  };
  stream.onerror = () => {
    if (over) return;
    at("progress-message").textContent = "Connecting to the hub again …";
    // A refused stream is not taken up again by the browser; the hub knows which page is right now.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
  };

  at("stop-server-btn").addEventListener("click", async () => {
    const button = at("stop-server-btn");
    const status = at("stop-server-status");
    button.disabled = true;
    status.textContent = "Cancelling …";
    // The hub may call a lab that is being taken down "ready" for a moment; nothing must follow from that.
    over = true;
    stream.close();
    try {
      await window.gpulab.api("DELETE", window.gpulab.serverPath(user, server));
      location.assign(formUrl);
    } catch (error) {
      status.textContent = error.message;
      setTimeout(() => location.reload(), 5000);
    }
  });
  window._jupyterhub_page_loaded = true;
})();
