#!/usr/bin/env bash
# Owns the system packages that only tests need, each with its reason. Installs them where it may, else says so.
. "$(dirname "$0")/lib.sh"

# command-or-file:package
NEEDED=(
  gcc:gcc                                                                 # the stand-in for NVML is a small C library
  /usr/include/stdlib.h:libc6-dev                                         # its headers
  debootstrap:debootstrap                                                 # roots for a modern engine and for the base image
  /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring   # what debootstrap checks them with
  ip:iproute2                                                             # bridges of the modern engine
  iptables:iptables                                                       # likewise
  unshare:util-linux                                                      # its mount namespace
  slirp4netns:slirp4netns                                                 # its way to package mirrors, for hosts on it
  /usr/lib/postgresql:postgresql                                          # a server that the ledger's rules are tried on
  git:git                                                                 # the quick start's fresh clone
)

missing=()
# The browser suite takes any Chromium; Ubuntu has another name for it than Debian.
if ! has chromium && ! has chromium-browser && ! has google-chrome; then
  if grep -q '^ID=ubuntu' /etc/os-release; then missing+=(chromium-browser); else missing+=(chromium); fi
fi
for pair in "${NEEDED[@]}"; do
  what=${pair%%:*}
  if ! has "$what" && [ ! -e "$what" ]; then missing+=("${pair##*:}"); fi
done
[ "${#missing[@]}" -eq 0 ] || apt_install "the tests" "${missing[@]}"
