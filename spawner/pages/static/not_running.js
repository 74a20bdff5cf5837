// "Not running" page: keep the place in the lab that the address names, and go on by itself where the hub says so.
"use strict";
(() => {
  const start = document.getElementById("start");
  if (location.hash) start.href += location.hash;
  const go = document.querySelector("[data-go-seconds]");
  if (go) setTimeout(() => location.assign(start.href), 1000 * go.dataset.goSeconds);
  window._jupyterhub_page_loaded = true;
})();
