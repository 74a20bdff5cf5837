// The page of the waiting line: keeps the numbers fresh, moves on to the lab when its turn comes, and tells a person who looks away.
"use strict";
(() => {
  const PERIOD_MS = 2000;
  const line = document.getElementById("line");
  const sections = new Map([...line.querySelectorAll("[data-ticket]")].map((section) => [section.dataset.ticket, section]));
  if (!sections.size) return;

  const notify = document.getElementById("notify");
  const told = document.getElementById("notify-state");
  if (window.isSecureContext && "Notification" in window && Notification.permission !== "denied") {
    const on = () => { notify.hidden = true; told.textContent = "You will be notified while this page is open."; };
    if (Notification.permission === "granted") on();
    else {
      notify.hidden = false;
      notify.addEventListener("click", async () => {
        if ((await Notification.requestPermission()) === "granted") on();
        else { notify.hidden = true; told.textContent = "Your browser does not allow notifications for this page."; }
      });
    }
  }

  function announce(text) {
    if (!document.hidden || !("Notification" in window) || Notification.permission !== "granted") return;
    new Notification("GPU Lab", { body: text, tag: "gpulab-line" });
  }

  function write(section, selector, text) {
    const element = section.querySelector(selector);
    if (element.textContent !== text) element.textContent = text;
  }

  function show(section, ticket) {
    write(section, ".lab-ticket-headline", ticket.headline);
    write(section, ".lab-ticket-expected", ticket.expected_text);
    write(section, ".lab-ticket-why", ticket.why);
    if (section.dataset.state !== ticket.state) {
      section.dataset.state = ticket.state;
      if (ticket.state === "claimed" || ticket.state === "starting") announce("It is your turn: your lab is starting.");
    }
    if (ticket.state === "starting") window.location.assign(section.dataset.pending);
  }

  async function look() {
    try {
      const answer = await fetch(line.dataset.ticketsUrl, { headers: { Accept: "application/json", "X-XSRFToken": window.jhdata.xsrf_token }, credentials: "same-origin" });
      if (answer.status === 403) { window.location.reload(); return; }
      if (!answer.ok) return;
      const { tickets } = await answer.json();
      const live = new Set();
      for (const ticket of tickets) {
        live.add(ticket.id);
        const section = sections.get(ticket.id);
        if (section) show(section, ticket);
      }
      for (const [id, section] of sections) {
        if (live.has(id)) continue;
        // Done, cancelled or failed: the lab's own address shows which; a lab that runs opens there.
        const began = section.dataset.state === "claimed" || section.dataset.state === "starting";
        if (began) window.location.assign(section.dataset.pending);
        else window.location.reload();
        return;
      }
    } catch {
      // The hub restarts or the network is away; the line goes on, and so does this.
    } finally {
      setTimeout(look, PERIOD_MS);
    }
  }
  setTimeout(look, PERIOD_MS);
})();
