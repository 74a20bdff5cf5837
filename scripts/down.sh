#!/usr/bin/env bash
# Owns `make down` and `make restart`: ends the hub, then (unless only the hub was meant) all labs of this lab. Homes,
# data and models always stay.
#
# usage: scripts/down.sh [hub]
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hub.sh"

end_labs() {
  if [ ! -x "$VENV/bin/python" ]; then
    say "    there is no .venv to ask the Docker engine with; if labs of this checkout still run, 'make setup down' ends them"
    return 0
  fi
  if ! scripts/engine.sh probe >/dev/null; then
    say "    no Docker engine answers, so no labs run"
    return 0
  fi
  "$VENV/bin/python" scripts/objects.py end-labs
}

one_at_a_time
# The hub first: with it alive, a lab that ends would look like one that crashed.
step "Hub" stop_hub
[ "${1:-}" = hub ] || step "Labs" end_labs
