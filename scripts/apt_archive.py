"""Owns where Debian's packages are for this host: the archive and the proxy that its apt uses, and the keys to check with.

Never fetches anything and never installs anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# What debootstrap checks Debian with; on a system that is not Debian it may lack, and then nothing would be checked.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def fetchable(address: str) -> str:
    """An address debootstrap can use, from one that apt uses; empty where there is none (a CD, for example)."""
    # Debian's cloud images name their mirror in a file, one address a line.
    if address.startswith("mirror+file:"):
        lines = Path("/" + address.removeprefix("mirror+file:").lstrip("/")).read_text().splitlines()
        address = next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), "")
    return address if address.startswith(("http:", "https:", "file:")) else ""


def mirror_in(listing: str, codename: str) -> str:
    """Debian's archive among apt's targets: by its own name for itself, else (lists not fetched yet) by the release."""
    targets = [line.split("|", 5) for line in listing.splitlines() if line.count("|") >= 5]
    main = [target for target in targets if target[:2] == ["Packages", "main"]]
    named = [target[5] for target in main if target[3:5] == ["Debian", "Debian"]]
    named += [target[5] for target in main if codename and target[2] == codename]
    return next(filter(None, map(fetchable, named)), "")


def debian_mirror() -> str:
    """The mirror apt uses on this host for Debian's main packages, or the one a person named; else empty."""
    asked = os.environ.get("GPULAB_DEBIAN_MIRROR", "")
    if asked or not shutil.which("apt-get"):
        return asked
    lines = Path("/etc/os-release").read_text().splitlines()
    release = dict(line.split("=", 1) for line in lines if "=" in line)
    debian = release.get("ID", "").strip('"') == "debian"
    # S607: the command is found by PATH on purpose, like every tool of the host; the arguments are ours.
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CREATED_BY)|$(COMPONENT)|$(RELEASE)|$(ORIGIN)|$(LABEL)|$(REPO_URI)"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return mirror_in(listing.stdout, release.get("VERSION_CODENAME", "").strip('"') if debian else "")


def with_apts_proxy() -> dict[str, str]:
    """This process's environment, with the proxy of apt's configuration where no other is set; debootstrap knows only that."""
    env = dict(os.environ)
    if "http_proxy" in env or not shutil.which("apt-config"):
        return env
    # S607: as above.
    told = subprocess.run(
        ["apt-config", "shell", "P", "Acquire::http::Proxy"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    proxy = told.stdout.strip().removeprefix("P=").strip("'")
    return env | {"http_proxy": proxy} if proxy and proxy != "DIRECT" else env
