// Loads one of JupyterHub's own script modules, which its pages would load by an inline script.
"use strict";
window.require([document.currentScript.dataset.module]);
