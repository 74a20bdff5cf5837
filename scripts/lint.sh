#!/usr/bin/env bash
# Owns `make lint`: style, types, shell, notebooks in step with their sources. Changes nothing and needs no network.
# Every check runs, also after one that failed, so that one run tells everything.
. "$(dirname "$0")/lib.sh"

FAILED=()
check() {
  local title=$1
  shift
  printf '%s==>%s %s\n' "$BOLD" "$OFF" "$title"
  "$@" || FAILED+=("$title")
}

shell_files() {
  git ls-files -co --exclude-standard -- '*.sh' .ci/run images/pytorch/start
}

notebooks_in_step() {
  local sources
  mapfile -t sources < <(compgen -G 'notebooks/[0-9]*.py' || true)
  [ "${#sources[@]}" -gt 0 ] || return 0
  local source notebook failed=0
  for source in "${sources[@]}"; do
    notebook=${source%.py}.ipynb
    if [ ! -f "$notebook" ] ||
      ! diff -q <("$VENV/bin/jupytext" --quiet --to py:percent --output - "$notebook" | body) <(body <"$source") >/dev/null; then
      echo "$notebook is not what $source says: run '.venv/bin/jupytext --sync $source'"
      failed=1
    fi
  done
  "$VENV/bin/nbstripout" --verify notebooks/*.ipynb || failed=1
  return "$failed"
}
# The header names versions of tools; what counts is what follows it.
body() { awk '/^# ---$/ { marks++; next } marks != 1'; }

check "ruff check" "$VENV/bin/ruff" check .
check "ruff format" "$VENV/bin/ruff" format --check .
check "mypy" "$VENV/bin/mypy"
check "mypy scripts" "$VENV/bin/mypy" --strict --python-version 3.11 --follow-imports=silent scripts/images.py scripts/objects.py
mapfile -t SHELL_FILES < <(shell_files)
check "shellcheck" "$VENV/bin/shellcheck" "${SHELL_FILES[@]}"
check "notebooks" notebooks_in_step

if [ "${#FAILED[@]}" -gt 0 ]; then
  die "Lint failed in: ${FAILED[*]}. Mend what the lines above name; '.venv/bin/ruff check --fix . && .venv/bin/ruff format .' mends style by itself."
fi
say "Lint found nothing."
