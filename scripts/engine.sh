#!/usr/bin/env bash
# Owns finding a Docker engine, and installing and starting the distribution's where there is none.
# Never touches an engine that already answers, and never stops one.
#
# usage: scripts/engine.sh          find or start an engine; prints what it found
#        scripts/engine.sh probe    only find: exit 0 and its version where one answers
. "$(dirname "$0")/lib.sh"

SOCKET=/var/run/docker.sock

# Prints `ok VERSION`, `denied` or `absent`. Python and not the docker command: a host may have either without the other.
probe() {
  "$VENV/bin/python" - <<'PY'
import docker, errno
try:
    version = docker.from_env(timeout=10).version()
    print("ok", version["Version"])
except Exception as error:
    denied = f"Errno {errno.EACCES}" in repr(error) or "Permission denied" in repr(error)
    print("denied" if denied else "absent")
PY
}

answers() { [[ $(probe) == ok* ]]; }

wait_until_it_answers() {
  local deadline=$((SECONDS + 60))
  until answers; do
    if [ -n "${1:-}" ] && ! kill -0 "$1" 2>/dev/null; then return 1; fi
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.5
  done
}

# After a crash, dockerd trusts the process numbers in these files, also when by now they belong to something else: it
# refuses to start, or waits for a containerd that is none.
drop_stale_pid_files() {
  local file pid name
  for file in /var/run/docker.pid:dockerd /var/run/docker/containerd/containerd.pid:containerd; do
    name=${file##*:} file=${file%:*}
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    [ "$(cat "/proc/$pid/comm" 2>/dev/null || true)" = "$name" ] || rm -f "$file"
  done
}

start_with_systemd() {
  if quietly engine.log systemctl enable --now docker; then wait_until_it_answers; else false; fi ||
    die "The Docker engine does not start: read 'journalctl -u docker -n 50', mend what it says, then run this command again."
}

start_in_background() {
  local log=$LOGS/dockerd.log
  drop_stale_pid_files
  # Its own session and no terminal: it must outlive this shell and the person's login. The lock of `make` (descriptor
  # 9) must not live on in it.
  setsid nohup dockerd >>"$log" 2>&1 </dev/null 9>&- &
  wait_until_it_answers $! && return 0
  tail -n 15 "$log" >&2
  die "The Docker engine does not start: mend what the lines above say (whole log: $log), then run this command again."
}

ensure() {
  local state
  state=$(probe)
  case $state in
    ok*) say "    Docker engine ${state#ok } answers"; return 0 ;;
    denied) die "You may not use the Docker engine of this machine: ask an administrator for 'sudo usermod -aG docker $(id -un)', log in again, then run this command again." ;;
  esac
  if [ -n "${DOCKER_HOST:-}" ]; then
    die "No Docker engine answers at DOCKER_HOST=$DOCKER_HOST: start that engine or unset DOCKER_HOST, then run this command again."
  fi
  if ! is_root; then
    die "No Docker engine answers at $SOCKET, and only an administrator can change that: ask for 'sudo apt-get install docker.io && sudo usermod -aG docker $(id -un)', log in again, then run this command again."
  fi
  if ! has dockerd; then
    has apt-get || die "There is no Docker engine and no apt to install one: install Docker Engine for this system, then run this command again."
    apt_install "the Docker engine" docker.io iptables ca-certificates
  fi
  if answers; then :; elif [ -d /run/systemd/system ]; then start_with_systemd; else start_in_background; fi
  state=$(probe)
  say "    Docker engine ${state#ok } started"
}

[ -x "$VENV/bin/python" ] || die "The virtual environment is missing: run 'make setup'."
case ${1:-ensure} in
  probe) state=$(probe); say "$state"; [[ $state == ok* ]] ;;
  ensure) ensure ;;
  *) die "scripts/engine.sh knows 'probe' and 'ensure', not '$1'." ;;
esac
