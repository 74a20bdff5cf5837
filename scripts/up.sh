#!/usr/bin/env bash
# Owns `make up`: everything from a fresh clone to a hub that answers. On a running lab it changes nothing.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hub.sh"

one_at_a_time
began=$(now_ms)
export GPULAB_ADDRESS=$ADDRESS GPULAB_PORT=$PORT

# The cheapest question first: nobody wants to wait for an image to learn that a port is taken.
if hub_pid >/dev/null; then
  wanted=$(browser_url "$ADDRESS" "$PORT")
  [ "$(hub_url)" = "$wanted" ] ||
    die "The hub of this checkout already runs at $(hub_url), not at $wanted: run 'make down' first to move it."
else
  require_free_ports
fi

# The lock is held here; setup.sh must not wait for it.
GPULAB_LOCKED=1 scripts/setup.sh

say
if hub_pid >/dev/null; then
  say "The lab runs at ${BOLD}$(hub_url)${OFF} (nothing was changed)."
  ! lab_file_changed || say "lab.yaml has changed since the hub started: 'make restart' puts it into force; running labs go on."
  say "A new login token for the admin:  .venv/bin/gpulab token admin --admin --one-time"
  exit 0
fi

step "Hub" start_hub
# What the command says beside the token repeats what stands below; only a failure's words are for the person.
if ! token=$("$VENV/bin/gpulab" token admin --admin --one-time 2>"$LOGS/token.log"); then
  cat "$LOGS/token.log" >&2
  die "The hub runs at $(hub_url) but gave no login token: mend what the line above says, then run '.venv/bin/gpulab token admin --admin --one-time'."
fi
took=$((($(now_ms) - began) / 1000))
say
say "The lab is up after $took s."
say "  address      ${BOLD}$(hub_url)${OFF}"
say "  login token  ${BOLD}$token${OFF}   (user admin; valid once)"
say
say "A token for a colleague:  .venv/bin/gpulab token NAME"
say "Stop everything, keep everybody's data:  make down"
