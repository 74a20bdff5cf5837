// Follows the board: server-sent events, and where they do not come through, a question every ten seconds. Keeps one copy of the
// board up to date and says what changed. A page that nobody sees does not listen: a browser has few connections per hub.
"use strict";
(() => {
  const POLL_MS = 10_000;
  const RETRY_MS = 60_000;
  // The hub says something at least every 15 seconds.
  const SILENCE_MS = 45_000;

  // update(board, ids): ids of the GPUs that changed, or null after a whole new board. state(word, sentence): live, asking or lost.
  window.gpulab.follow = ({ update, state }) => {
    let board = null;
    let stream = null;
    let poll = 0;
    let watch = 0;
    let retry = 0;

    function whole(data) {
      board = data;
      update(board, null);
    }

    function merge(data) {
      const { gpus = [], gone = [], ...rest } = data;
      const changed = new Map(gpus.map((gpu) => [gpu.id, gpu]));
      const kept = board.gpus.filter((gpu) => !gone.includes(gpu.id));
      const known = new Set(kept.map((gpu) => gpu.id));
      const rows = kept.map((gpu) => (changed.has(gpu.id) ? { ...gpu, ...changed.get(gpu.id) } : gpu));
      board = { ...board, ...rest, gpus: [...rows, ...gpus.filter((gpu) => !known.has(gpu.id))] };
      update(board, new Set([...changed.keys(), ...gone]));
    }

    function loads(data) {
      const rows = board.gpus.map((gpu) => (data.gpus[gpu.id] ? { ...gpu, ...data.gpus[gpu.id] } : gpu));
      board = { ...board, at: data.at, gpus: rows };
      update(board, new Set(Object.keys(data.gpus)));
    }

    function heard() {
      clearTimeout(watch);
      clearInterval(poll);
      poll = 0;
      watch = setTimeout(reopen, SILENCE_MS);
      state("live", "Live");
    }

    function on(name, work) {
      stream.addEventListener(name, (event) => {
        work(JSON.parse(event.data));
        heard();
      });
    }

    function open() {
      if (document.hidden || stream) return;
      stream = new EventSource(`${window.jhdata.base_url}api/gpus/events?_xsrf=${encodeURIComponent(window.jhdata.xsrf_token)}`);
      on("board", whole);
      on("change", merge);
      on("load", loads);
      on("tick", () => {});
      stream.onerror = () => {
        ask();
        // The browser takes up a broken stream by itself, but not one that was refused.
        if (stream?.readyState === EventSource.CLOSED) {
          close();
          clearTimeout(retry);
          retry = setTimeout(open, RETRY_MS);
        }
      };
    }

    function close() {
      stream?.close();
      stream = null;
      clearTimeout(watch);
    }

    function reopen() {
      close();
      ask();
      open();
    }

    function ask() {
      if (poll) return;
      poll = setInterval(once, POLL_MS);
      // The hub ends every stream now and then; what is taken up again at once is no news.
      setTimeout(() => poll && once(), 2500);
    }

    async function once() {
      if (document.hidden) return;
      try {
        const { data } = await window.gpulab.api("GET", ["gpus"]);
        whole(data);
        if (poll) state("asking", "Asking every 10 seconds");
      } catch (error) {
        if (poll) state("lost", `Not up to date: ${error.message}`);
      }
    }

    document.addEventListener("visibilitychange", () => {
      if (document.hidden) {
        close();
        clearInterval(poll);
        poll = 0;
      } else open();
    });
    open();
  };

  window.gpulab.clock = (iso, seconds) => {
    const when = iso ? new Date(iso) : new Date();
    const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(seconds ? { second: "2-digit" } : {}) };
    const day = when.toDateString() === new Date().toDateString() ? {} : { day: "numeric", month: "short" };
    return new Intl.DateTimeFormat("en-GB", { ...day, ...clock }).format(when);
  };
})();
