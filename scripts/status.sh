#!/usr/bin/env bash
# Owns `make status`: what runs, in a few lines. Never changes anything.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hub.sh"

if pid=$(hub_pid); then
  say "hub     runs at $(hub_url) (process $pid, since $(date -r "$HUB_RECORD"), log $HUB_LOG)"
else
  say "hub     does not run ('make up' starts it)"
fi
if [ ! -x "$VENV/bin/python" ]; then
  say "venv    is not there yet ('make setup' makes it)"
  exit 0
fi
if engine=$(scripts/engine.sh probe); then
  say "engine  Docker ${engine#ok } answers"
  say "image   $("$VENV/bin/python" scripts/images.py state | sed '2,$s/^/        /')"
  say "labs"
  "$VENV/bin/python" scripts/objects.py labs
else
  say "engine  no Docker engine answers ('make setup' finds or starts one)"
fi
if [ -n "$pid" ]; then
  say "gpus"
  "$VENV/bin/gpulab" gpus 2>&1 | sed 's/^/    /' || say "    (the hub does not say; see 'make logs')"
fi
