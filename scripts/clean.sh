#!/usr/bin/env bash
# Owns `make clean` and `make clean-all`: takes away what this checkout made. Homes, data, secrets and the hub's memory
# go only with clean-all, and only after a person said so.
#
# usage: scripts/clean.sh [all]
. "$(dirname "$0")/lib.sh"

remove_docker_objects() {
  if [ ! -x "$VENV/bin/python" ] || ! scripts/engine.sh probe >/dev/null; then
    say "    no .venv or no Docker engine here, so Docker objects stay"
    return 0
  fi
  "$VENV/bin/python" scripts/objects.py remove-network
  [ "${1:-}" != all ] || "$VENV/bin/python" scripts/objects.py remove-homes
  "$VENV/bin/python" scripts/images.py remove
}

remove_files() {
  rm -rf .venv .proxy .browser build gpulab.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis "$LAB/cache"
  find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
  [ "${1:-}" != all ] || rm -rf "$LAB"
}

scope=${1:-}
if [ "$scope" = all ]; then
  name=$(setting '' name gpulab)
  if [ "${YES:-}" != "$name" ]; then
    [ -t 0 ] || die "This deletes everybody's homes, the data in .lab and all tokens: say so with 'make clean-all YES=$name'."
    printf "This deletes everybody's homes, the data in .lab and all tokens. Type the lab's name (%s) to go on: " "$name"
    read -r answer
    [ "$answer" = "$name" ] || die "Nothing was deleted: the answer was not '$name'."
  fi
fi
# Homes are the engine's, and without the venv nobody could ask it for them.
[ "$scope" != all ] || [ -x "$VENV/bin/python" ] || scripts/setup.sh venv
scripts/down.sh
step "Docker objects" remove_docker_objects "$scope"
step "Files" remove_files "$scope"
