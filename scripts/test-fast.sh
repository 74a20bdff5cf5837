#!/usr/bin/env bash
# Owns `make test-fast`: the suites that need no engine, in two processes, for most of what the hub's own suite takes is waiting.
# Its output comes whole, after the other's. Arguments are suites; tests/auth is the one that runs beside the others.
. "$(dirname "$0")/lib.sh"

BESIDE=tests/auth
others=()
for suite in "$@"; do
  [ "$suite" = "$BESIDE" ] || others+=("$suite")
done

output=$(mktemp)
trap 'rm -f "$output"' EXIT
"$VENV/bin/python" -m pytest -p no:cacheprovider "$BESIDE" >"$output" 2>&1 &
beside=$!
failed=0
"$VENV/bin/python" -m pytest -p no:cacheprovider "${others[@]}" || failed=1
wait "$beside" || failed=1
cat "$output"
exit "$failed"
