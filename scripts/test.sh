#!/usr/bin/env bash
# Owns `make test`: a machine made ready, then one pytest over the suites in the order given. Arguments are suites; one
# that does not exist yet is left out and named.
. "$(dirname "$0")/lib.sh"

suites=()
for suite in "$@"; do
  if [ -e "$suite" ]; then suites+=("$suite"); else say "(there is no $suite yet)"; fi
done

step "System packages of the tests" scripts/test-deps.sh
step "Packages for tests (.venv)" scripts/setup.sh dev
scripts/setup.sh browser
scripts/setup.sh
exec "$VENV/bin/python" -m pytest -p no:cacheprovider --durations=15 "${suites[@]}"
