// Error page: forget the hub's own count of redirects, so that loading again starts afresh.
"use strict";
(() => {
  const url = new URL(location.href);
  if (!url.searchParams.has("redirects")) return;
  url.searchParams.delete("redirects");
  history.replaceState(null, "", url);
})();
