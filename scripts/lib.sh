# shellcheck shell=bash
# Owns what every script shares: where things are, how progress and failure are said, how packages are installed.
# Never starts, builds or removes anything by itself; it is sourced, not run.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LAB_FILE=$(realpath -m "${GPULAB_CONFIG:-$ROOT/lab.yaml}")
# shellcheck disable=SC2034  # read by the scripts that source this file
VENV=$ROOT/.venv

# setting SECTION KEY DEFAULT: one value of lab.yaml, readable before there is anything to parse YAML with (SECTION is
# empty for a key at the top). The hub itself validates the file; this only has to find what is there.
setting() {
  local found
  found=$(awk -v section="$1" -v key="$2:" '
    /^[^ #]/ { inside = (section == "" || $1 == section ":") }
    inside && $1 == key { gsub(/["\047]/, "", $2); print $2; exit }' "$LAB_FILE" 2>/dev/null || true)
  printf '%s\n' "${found:-$3}"
}

# The state folder, where lab.yaml says it is: relative to that file. Absolute here, because it ends up in the
# environment of processes that live on.
LAB=$(realpath -m "$(dirname "$LAB_FILE")/$(setting '' state .lab)")
[[ $(setting '' state .lab) != /* ]] || LAB=$(setting '' state .lab)
export GPULAB_STATE=$LAB
# Nothing is written outside the checkout, and pip's cache lies in the home where nobody says otherwise.
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-$LAB/cache/pip}
LOGS=$LAB/log
cd "$ROOT"

# Colour only where a person is looking.
if [ -t 1 ]; then DIM=$'\e[2m' BOLD=$'\e[1m' RED=$'\e[31m' OFF=$'\e[0m'; else DIM='' BOLD='' RED='' OFF=''; fi

say() { printf '%s\n' "$*"; }

# die SENTENCE: every failure ends here, in one sentence that says what to do.
die() {
  printf '%s%s%s\n' "$RED" "$*" "$OFF" >&2
  exit 1
}

if ! mkdir -p "$LOGS" "$LAB/state" "$LAB/cache" 2>/dev/null || [ ! -w "$LAB/state" ] || [ ! -w "$LOGS" ]; then
  die "The state folder $LAB cannot be written to by $(id -un): run this as its owner, or name another folder in lab.yaml (state)."
fi

now_ms() { date +%s%3N; }

# step TITLE COMMAND...: says what is being done, does it, and says how long it took. The command's own words go to
# stdout indented by nothing: they are progress. Its failure is the script's failure, already explained by `die`.
step() {
  local title=$1 began took
  shift
  began=$(now_ms)
  printf '%s==>%s %s\n' "$BOLD" "$OFF" "$title"
  "$@"
  took=$(($(now_ms) - began))
  printf '    %sdone in %d.%d s%s\n' "$DIM" $((took / 1000)) $((took % 1000 / 100)) "$OFF"
}

# quietly LOG COMMAND...: keeps a command's words in a log and shows its end only when it fails.
quietly() {
  local log=$LOGS/$1
  shift
  if ! "$@" >>"$log" 2>&1; then
    tail -n 15 "$log" >&2
    return 1
  fi
}

is_root() { [ "$(id -u)" = 0 ]; }
has() { command -v "$1" >/dev/null 2>&1; }
can_apt() { is_root && has apt-get; }

# A machine that has just been set up updates itself first, and then its package lists are locked for some minutes.
APT_LOCK_SECONDS=300

refresh_package_lists() {
  local deadline=$((SECONDS + APT_LOCK_SECONDS))
  until apt-get update -q >"$LOGS/apt-update.log" 2>&1; do
    if ! grep -q 'Could not get lock' "$LOGS/apt-update.log" || [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 15 "$LOGS/apt-update.log" >&2
      return 1
    fi
    sleep 2
  done
}

# apt_install WHY PACKAGE...: installs what the distribution offers. An old or empty package list is the usual
# reason for a failure, so the list is fetched once and the install tried again.
apt_install() {
  local why=$1 install
  shift
  can_apt || die "$why needs the packages '$*', which only an administrator can install: run 'sudo apt-get install $*', then this command again."
  say "    installing $* with apt ($why)"
  export DEBIAN_FRONTEND=noninteractive
  install=(apt-get -o "DPkg::Lock::Timeout=$APT_LOCK_SECONDS" install -y -q --no-install-recommends "$@")
  if ! "${install[@]}" >>"$LOGS/apt.log" 2>&1; then
    refresh_package_lists ||
      die "The package list could not be refreshed: make 'apt-get update' work on this machine, then run this command again."
    quietly apt.log "${install[@]}" ||
      die "apt could not install '$*' (log: $LOGS/apt.log): make 'apt-get install $*' work, then run this command again."
  fi
}

# one_at_a_time: two people typing `make up` in one checkout must not build and start twice.
one_at_a_time() {
  # A script that was started by one that holds the lock already.
  [ -z "${GPULAB_LOCKED:-}" ] || return 0
  exec 9>"$LAB/state/make.lock"
  flock -n 9 && return 0
  say "Another 'make' is at work in this checkout; waiting for it (at most 30 minutes)."
  flock -w 1800 9 || die "Another 'make' holds $LAB/state/make.lock since 30 minutes: end it, then run this command again."
}

# The distribution's Python before one that happens to come first on somebody's PATH: its venv outlives theirs.
find_python() {
  local python
  for python in ${PYTHON:+"$PYTHON"} /usr/bin/python3 python3; do
    if has "$python" && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
      printf '%s\n' "$python"
      return 0
    fi
  done
  return 1
}
