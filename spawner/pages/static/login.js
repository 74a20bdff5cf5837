// Log-in page: show or hide the token, trim what was pasted, warn about a connection that is not encrypted.
"use strict";
(() => {
  const warning = document.getElementById("insecure-login-warning");
  if (warning) warning.hidden = window.isSecureContext;
  const field = document.getElementById("token_input");
  if (!field) return;
  const toggle = document.getElementById("toggle_token");
  toggle.addEventListener("click", () => {
    const show = field.type === "password";
    field.type = show ? "text" : "password";
    toggle.textContent = show ? "Hide" : "Show";
    toggle.setAttribute("aria-pressed", String(show));
    field.focus();
  });
  // Copying from a terminal or a chat often takes a space or a line break along.
  const trim = () => (field.value = field.value.trim());
  field.addEventListener("paste", () => setTimeout(trim));
  field.form.addEventListener("submit", trim);
  window._jupyterhub_page_loaded = true;
})();
