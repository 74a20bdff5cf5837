// The two values that JupyterHub's admin page reads from window.
"use strict";
window.api_page_limit = parseInt(document.currentScript.dataset.limit, 10);
window.base_url = document.currentScript.dataset.baseUrl;
