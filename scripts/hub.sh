# shellcheck shell=bash
# Owns the hub as a process: its record, whether it lives, start and stop. Never touches a lab's container.
# Sourced after lib.sh.

ADDRESS=${GPULAB_ADDRESS:-$(setting hub address 127.0.0.1)}
PORT=${GPULAB_PORT:-$(setting hub port 8000)}
HUB_LOG=$LOGS/hub.log
# One line: process id, its start time, its address, its lab.yaml. The start time tells our hub from a stranger that
# got its number; the last says whether the file has changed since.
HUB_RECORD=$LAB/state/hub.pid
START_SECONDS=120
STOP_SECONDS=20

started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
runs_command() { tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q -- "$2"; }

# hub_pid: prints the id of the running hub of this checkout; fails where there is none.
hub_pid() {
  local pid start
  read -r pid start _ 2>/dev/null <"$HUB_RECORD" || return 1
  [ -n "$pid" ] && [ "$(started_at "$pid")" = "$start" ] && runs_command "$pid" jupyterhub || return 1
  printf '%s\n' "$pid"
}

# hub_url: the address the running hub was started with.
hub_url() { cut -d' ' -f3 "$HUB_RECORD"; }

lab_file_digest() { sha256sum <"$LAB_FILE" | cut -c1-16; }
lab_file_changed() { [ "$(cut -d' ' -f4 "$HUB_RECORD")" != "$(lab_file_digest)" ]; }

browser_url() {
  case $1 in
    0.0.0.0 | :: | '*') printf 'http://127.0.0.1:%s\n' "$2" ;;
    *:*) printf 'http://[%s]:%s\n' "$1" "$2" ;;
    *) printf 'http://%s:%s\n' "$1" "$2" ;;
  esac
}

# A proxy that outlived its hub holds the port, and the next hub of this checkout ends it by itself.
own_proxy_lives() {
  local pid
  pid=$(cat "$LAB/state/proxy.pid" 2>/dev/null) && runs_command "$pid" "$ROOT/.proxy/"
}

# can_listen ADDRESS PORT: prints nothing where one can, else the reason.
can_listen() {
  local python
  python=$(find_python) || return 0
  "$python" - "$1" "$2" <<'PY'
import errno, socket, sys
address, port = sys.argv[1], sys.argv[2]
if not port.isdigit() or not 0 < int(port) < 65535:
    sys.exit(print(f"'{port}' is no port: choose one from 1 to 65534, e.g. 'make up PORT=8001'."))
try:
    family, kind, proto, _, where = socket.getaddrinfo(address or "0.0.0.0", int(port), type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        probe.listen(1)
except OSError as error:
    if error.errno == errno.EADDRINUSE:
        print(f"Port {port} on {address} is in use: stop what listens there, or choose another with 'make up PORT={int(port) + 10}'.")
    elif error.errno == errno.EACCES:
        print(f"Port {port} is for root only: choose one above 1023 with 'make up PORT=8000'.")
    else:
        print(f"This machine cannot listen on '{address}' ({error.strerror}): choose one of its own addresses with 'make up ADDRESS=127.0.0.1'.")
PY
}

require_free_ports() {
  local reason
  ! own_proxy_lives || return 0
  reason=$(can_listen "$ADDRESS" "$PORT")
  [ -z "$reason" ] || die "$reason"
  reason=$(can_listen 127.0.0.1 $((PORT + 1)))
  [ -z "$reason" ] || die "The proxy needs the port after the hub's for itself. $reason"
}

# Prints nothing and succeeds when the hub answers; fails when it ended or the time is over.
wait_for_answer() {
  "$VENV/bin/python" - "$1" "$2" "$START_SECONDS" <<'PY'
import os, sys, time, urllib.error, urllib.request
url, pid, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
# A proxy for the internet has no business between us and our own hub.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
while time.monotonic() < deadline:
    try:
        os.kill(pid, 0)
        with opener.open(f"{url}/hub/api", timeout=2):
            sys.exit(0)
    except ProcessLookupError:
        sys.exit(1)
    except (urllib.error.URLError, OSError):
        time.sleep(0.2)
sys.exit(2)
PY
}

# What the hub said before it ended: its own sentences where it had any, and no traceback beside them.
last_words() {
  local text
  text=$(cat)
  grep '^gpulab: ' <<<"$text" || tail -n 20 <<<"$text"
}

start_hub() {
  local url pid from outcome=0
  url=$(browser_url "$ADDRESS" "$PORT")
  touch "$HUB_LOG"
  from=$(($(wc -c <"$HUB_LOG") + 1))
  # Its own session and no terminal: it must outlive this shell. Descriptor 9 is the lock of `make`.
  setsid nohup "$VENV/bin/jupyterhub" -f "$ROOT/jupyterhub_config.py" >>"$HUB_LOG" 2>&1 </dev/null 9>&- &
  pid=$!
  wait_for_answer "$url" "$pid" || outcome=$?
  if [ "$outcome" = 0 ]; then
    printf '%s %s %s %s\n' "$pid" "$(started_at "$pid")" "$url" "$(lab_file_digest)" >"$HUB_RECORD"
    return 0
  fi
  tail -c +"$from" "$HUB_LOG" | last_words >&2
  if [ "$outcome" = 1 ]; then
    die "The hub ended while it started: mend what the last line above says (whole log: $HUB_LOG), then run 'make up' again."
  fi
  kill "$pid" 2>/dev/null || true
  die "The hub did not answer within $START_SECONDS s: read $HUB_LOG, then run 'make up' again."
}

end_process() {
  local pid=$1 deadline=$((SECONDS + STOP_SECONDS))
  kill "$pid" 2>/dev/null || return 0
  while [ -e "/proc/$pid" ] && [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -c1)" != Z ]; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      kill -KILL "$pid" 2>/dev/null || true
      return 0
    fi
    sleep 0.1
  done
}

stop_hub() {
  local pid
  if pid=$(hub_pid); then
    end_process "$pid"
    say "    the hub (process $pid) has stopped"
  else
    say "    no hub of this checkout runs"
  fi
  rm -f "$HUB_RECORD"
  if own_proxy_lives; then end_process "$(cat "$LAB/state/proxy.pid")"; fi
}
