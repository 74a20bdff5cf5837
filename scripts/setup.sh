#!/usr/bin/env bash
# Owns bringing a checkout to where a hub could start: venv, proxy, engine, image, folders. Never starts the hub.
#
# usage: scripts/setup.sh          all of it
#        scripts/setup.sh venv     only the packages the hub needs
#        scripts/setup.sh dev      only the packages, with those for tests and lint
#        scripts/setup.sh proxy | image | data
#        scripts/setup.sh browser  what only the browser tests need
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/node.sh"

STAMP=$VENV/.gpulab

wanted_stamp() {
  local kind=$1 python=$2
  { "$python" --version; printf '%s\n' "$ROOT"; cat "requirements/$kind.lock" pyproject.toml; } | sha256sum | cut -c1-16
}

ensure_venv() {
  local kind=$1 python
  python=$(find_python || true)
  if [ -z "$python" ]; then
    ! can_apt || apt_install "the hub" python3
    python=$(find_python) || die "GPU Lab needs Python 3.10 or newer: install it or name one with PYTHON=/path/to/python3, then run this command again."
  fi
  # What is needed for tests is also enough for the hub.
  local have
  have=$(cat "$STAMP" 2>/dev/null || true)
  if [ -x "$VENV/bin/gpulab" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
    if [ "$have" = "dev $(wanted_stamp dev "$python")" ]; then return 0; fi
    if [ "$kind" = hub ] && [ "$have" = "hub $(wanted_stamp hub "$python")" ]; then return 0; fi
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install "the virtual environment" python3-venv
  if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
    rm -rf "$VENV"
    quietly venv.log "$python" -m venv "$VENV" ||
      die "The virtual environment could not be made: install this system's python3-venv package, then run this command again."
  fi
  rm -f "$STAMP"
  say "    installing the packages of requirements/$kind.lock"
  quietly venv.log "$VENV/bin/python" -m pip install --quiet --require-hashes --only-binary=:all: \
    -r "requirements/$kind.lock" ||
    die "The Python packages could not be installed (log: $LOGS/venv.log): make pip's index reachable, then run this command again."
  quietly venv.log "$VENV/bin/python" -m pip install --quiet --no-deps --no-build-isolation -e . ||
    die "GPU Lab itself could not be installed (log: $LOGS/venv.log): mend what the lines above say, then run this command again."
  printf '%s %s\n' "$kind" "$(wanted_stamp "$kind" "$python")" >"$STAMP"
}

npm_stamp() { { printf '%s\n' "$ROOT"; cat "requirements/$1/package-lock.json"; } | sha256sum | cut -c1-16; }

# What requirements/NAME pins, into .NAME; whoever calls writes the stamp once all is in place.
install_from_npm() {
  local name=$1 folder=$ROOT/.$1
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "requirements/$name/package.json" "requirements/$name/package-lock.json" "$folder/"
  quietly "$name.log" npm_with_host_settings ci --prefix "$folder" --ignore-scripts --omit=dev --no-audit --no-fund
}

ensure_browser() {
  local folder=$ROOT/.browser wanted
  wanted=$(npm_stamp browser)
  [ "$(cat "$folder/.gpulab" 2>/dev/null || true)" != "$wanted" ] || return 0
  install_from_npm browser ||
    die "axe-core could not be installed (log: $LOGS/browser.log): make npm's registry reachable, then run this command again."
  printf '%s\n' "$wanted" >"$folder/.gpulab"
}

ensure_proxy() {
  local folder=$ROOT/.proxy wanted
  wanted=$(npm_stamp proxy)
  [ "$(cat "$folder/.gpulab" 2>/dev/null || true)" != "$wanted" ] || return 0
  install_from_npm proxy ||
    die "configurable-http-proxy could not be installed (log: $LOGS/proxy.log): make npm's registry reachable, then run this command again."
  # Its own start line says `env node`, which would be whatever the PATH has; this one is the Node.js it was made for.
  local command=$folder/node_modules/.bin/configurable-http-proxy
  rm -f "$command"
  printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$(node_folder)/bin/node" \
    "$folder/node_modules/configurable-http-proxy/bin/configurable-http-proxy" >"$command"
  chmod 755 "$command"
  printf '%s\n' "$wanted" >"$folder/.gpulab"
}

ensure_image() { "$VENV/bin/python" scripts/images.py ensure; }

# The quick start's own stand-ins for a NAS, made for the user that labs run as. A folder that an admin named in
# lab.yaml is the admin's: it is neither made nor changed here.
ensure_folders() {
  local folder
  for folder in "$LAB/nas/datasets" "$LAB/nas/models"; do
    [ ! -d "$folder" ] || continue
    mkdir -p "$folder"
    if is_root; then
      chown "$(setting limits uid 1000):$(setting limits gid 1000)" "$folder"
    elif [ "$(id -u)" != "$(setting limits uid 1000)" ]; then
      chmod 1777 "$folder"
    fi
  done
}

ensure_data() {
  ensure_folders
  # A NAS export may be read-only for this machine: the lab works without the data set, its first notebook does not.
  "$VENV/bin/gpulab" data get textures ||
    say "    WARNING: the default data set is not in place; mend what the line above says, then run '.venv/bin/gpulab data get textures'."
}

everything() {
  step "Python packages (.venv)" ensure_venv "${1:-hub}"
  step "Proxy (.proxy)" ensure_proxy
  step "Docker engine" scripts/engine.sh
  step "Lab image" ensure_image
  step "Default data set" ensure_data
}

one_at_a_time
case ${1:-all} in
  all) everything hub ;;
  all-dev) everything dev ;;
  venv) step "Python packages (.venv)" ensure_venv hub ;;
  dev) step "Python packages for tests and lint (.venv)" ensure_venv dev ;;
  proxy) step "Proxy (.proxy)" ensure_proxy ;;
  browser) step "Axe for the browser tests (.browser)" ensure_browser ;;
  image)
    step "Python packages (.venv)" ensure_venv hub
    step "Docker engine" scripts/engine.sh
    step "Lab image" ensure_image
    ;;
  data)
    step "Python packages (.venv)" ensure_venv hub
    step "Default data set" ensure_data
    ;;
  *) die "scripts/setup.sh knows 'venv', 'dev', 'proxy', 'browser', 'image' and 'data', not '$1'." ;;
esac
