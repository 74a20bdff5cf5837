#!/usr/bin/env bash
# Owns the refresh of every lock: host packages, lab images and their variants, proxy, browser tests. Never installs or builds anything.
#
# Locks carry hashes and no addresses: the same lock works behind every mirror. uv does not read pip's configuration,
# so what pip was told about addresses is told to uv in its own words.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/node.sh"

UV=$VENV/bin/uv
[ -x "$UV" ] || die "uv is missing: run 'make dev', then 'make lock' again."

pip_setting() { "$VENV/bin/python" -m pip config get "$1" 2>/dev/null || true; }
: "${UV_INDEX_URL:=${PIP_INDEX_URL:-$(pip_setting global.index-url)}}"
[ -z "$UV_INDEX_URL" ] || export UV_INDEX_URL
FIND_LINKS=${PIP_FIND_LINKS:-$(pip_setting global.find-links)}
unset PIP_FIND_LINKS UV_FIND_LINKS

compile() {
  local lock=$1
  shift
  say "    $lock"
  "$UV" pip compile --quiet --upgrade --generate-hashes --only-binary :all: --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links -o "$lock" "$@" ||
    die "$lock could not be resolved: mend what the lines above say, then run 'make lock' again."
}

for name in hub dev; do
  compile "requirements/$name.lock" --universal --python-version 3.10 "requirements/$name.in"
done

# The image's Python, not this host's; see images/images.toml.
image=(--python-version 3.11.2 --python-platform x86_64-manylinux_2_28)
torch=(--find-links "$FIND_LINKS")
if ! compgen -G "${FIND_LINKS%/}/torch-*+cpu-*.whl" >/dev/null; then
  torch=(--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
fi
compile images/pytorch/cpu.lock "${image[@]}" "${torch[@]}" images/pytorch/cpu.in
compile images/pytorch/cuda.lock "${image[@]}" images/pytorch/cuda.in

# A child's lock agrees with its parent's and holds only what the parent has not.
for kind in cpu cuda; do
  parent=images/pytorch/$kind.lock
  mapfile -t held < <(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package\n\1/p' "$parent")
  compile "images/predictive/$kind.lock" "${image[@]}" "${torch[@]}" -c "$parent" "${held[@]}" images/predictive/requirements.in
done

for folder in proxy browser; do
  say "    requirements/$folder/package-lock.json"
  (cd "requirements/$folder" && rm -f package-lock.json &&
    npm_with_host_settings install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund --silent) ||
    die "requirements/$folder could not be resolved: make npm's registry reachable, then run 'make lock' again."
done
