// Spawn form: the address after a refused start still carries the XSRF token, which JupyterHub would take for an option of
// the lab when the page is loaded again.
"use strict";
if (location.search.includes("_xsrf=")) history.replaceState(null, "", location.pathname);
window._jupyterhub_page_loaded = true;
