"""`make up` on hosts that nobody has touched: Debian with systemd, git and make, and neither Python nor engine nor image.

The hosts are containers on a private modern engine; what they install and build is real, from the mirrors that this host uses.
The tests of one host go on from one another, as an administrator's day does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.support.hosts import CHECKOUT, DebianHost, Said, debian_host, outward_engine
from tests.support.private_engine import PrivateEngine

# A host is made ready within the first test of it.
pytestmark = pytest.mark.timeout(1800)

ADDRESS = "http://127.0.0.1:8000"
# Run by the checkout's own Python on the host: a person logs in with the token, another's lab is started over REST.
A_DAY = """
import json, subprocess, sys, time, requests
base, token = sys.argv[1:]
browser = requests.Session()
page = browser.get(base + "/hub/login", timeout=10)
form = {"_xsrf": browser.cookies.get("_xsrf", path="/hub/"), "token": token}
arrived = browser.post(page.url, data=form, timeout=10)
made = subprocess.run([".venv/bin/gpulab", "token", "ana"], capture_output=True, text=True, check=True)
rest = requests.Session()
rest.headers["Authorization"] = "token " + made.stdout.strip()
ana = base + "/hub/api/users/ana"
asked = rest.post(ana + "/server", json={"user_options": {"profile": "gpu-1"}}, timeout=60)
deadline = time.monotonic() + 120
lab = {}
while asked.ok and not lab.get("ready") and time.monotonic() < deadline:
    time.sleep(0.2)
    lab = rest.get(ana, timeout=10).json()["servers"].get("", {})
answer = rest.get(base + lab["url"] + "api", timeout=10) if lab.get("ready") else None
print(json.dumps({"arrived": arrived.url, "asked": asked.text, "lab": answer.json() if answer else {}}))
"""

# A machine that has just been set up is busy with its own updates: the locks of apt are held for a while, as apt holds them.
HOLD_APT = """
use Fcntl qw(:DEFAULT :flock SEEK_SET);
for my $name (qw(/var/lib/dpkg/lock-frontend /var/lib/apt/lists/lock)) {
    open(my $file, "+>", $name) or die; push @held, $file;
    my $lock = pack("s s x4 q q i x4", F_WRLCK, SEEK_SET, 0, 0, 0);
    fcntl($file, F_SETLK, $lock) or die;
}
open(my $told, ">", "/run/apt-is-held") or die;
sleep 20;
""".replace("\n", " ")


@pytest.fixture(scope="module")
def engine() -> Iterator[PrivateEngine]:
    with outward_engine() as running:
        yield running


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(engine: PrivateEngine, request: pytest.FixtureRequest) -> Iterator[DebianHost]:
    with debian_host(engine, request.param) as running:
        running.sh("touch /var/tmp/before")
        yield running
        # What was said where, for the person who reads about a failure.
        print(running.run("sh", "-c", "tail -n 20 .lab/log/*.log; systemctl --failed --no-pager").words)


@pytest.fixture(scope="module")
def first_up(host: DebianHost) -> Said:
    host.sh(f"setsid perl -e '{HOLD_APT}' >/dev/null 2>&1 & timeout 10 sh -c 'until [ -e /run/apt-is-held ]; do sleep 0.1; done'")
    said = host.run("make", "up")
    assert said.status == 0, said.words
    return said


def token(said: Said) -> str:
    found = re.search(r"login token\s+(\S+)", said.words)
    assert found, said.words
    return found[1]


def docker_state(host: DebianHost) -> list[str]:
    return (
        host.run("systemctl", "is-active", "docker").words.split() + host.run("systemctl", "is-enabled", "docker").words.split()
    )


def test_up_brings_engine_image_and_hub(host: DebianHost, first_up: Said) -> None:
    print(first_up.words)
    assert ADDRESS in first_up.words
    for expected in (
        "installing python3 with apt",
        "installing docker.io",
        "bootstrapping Debian",
        "gpulab/pytorch:cpu has revision",
    ):
        assert expected in first_up.words
    assert docker_state(host) == ["active", "enabled"]


def test_token_logs_in_and_a_lab_starts(host: DebianHost, first_up: Said) -> None:
    said = host.run(".venv/bin/python", "-c", A_DAY, ADDRESS, token(first_up))
    assert said.status == 0, said.words
    result = json.loads(said.words)
    assert "/hub/login" not in result["arrived"]
    assert "version" in result["lab"], result


def test_nothing_is_written_outside_the_checkout(host: DebianHost, first_up: Said) -> None:
    places = "/root /home /tmp /opt /mnt /srv /var/tmp"
    written = host.sh(f"find {places} -xdev -newer /var/tmp/before -type f -not -path '{CHECKOUT}/*' -not -path '/tmp/systemd-*'")
    assert written == ""


def test_second_up_changes_nothing_and_takes_seconds(host: DebianHost, first_up: Said) -> None:
    again = host.run("make", "up")
    assert again.status == 0, again.words
    assert "nothing was changed" in again.words
    assert again.seconds < 20


def test_up_after_a_reboot_starts_the_hub_again_and_clears_up(host: DebianHost, first_up: Said) -> None:
    host.reboot()
    assert "does not run" in host.run("make", "status").words
    said = host.run("make", "up")
    assert said.status == 0, said.words
    assert said.seconds < 60
    status = host.run("make", "status").words
    assert "0 of this lab's containers are there" in status
    assert status.count("free (simulated)") == 2


def test_an_engine_that_systemd_does_not_run_is_started_for_this_boot_and_the_next(host: DebianHost, first_up: Said) -> None:
    host.sh("systemctl disable --now docker.service docker.socket 2>/dev/null")
    assert docker_state(host) == ["inactive", "disabled"]
    said = host.run("scripts/engine.sh")
    assert said.status == 0, said.words
    assert re.search(r"Docker engine \S+ started", said.words)
    assert docker_state(host) == ["active", "enabled"]


def test_somebody_without_rights_is_told_which_and_then_comes_up(host: DebianHost, first_up: Said) -> None:
    assert host.run("make", "down").status == 0
    # Whoever comes later finds the image in the engine and needs no root.
    host.sh(f"useradd --create-home bo && git clone -q {CHECKOUT} /home/bo/lab 2>/dev/null && chown -R bo: /home/bo/lab")
    up = ("su", "bo", "-c", "cd ~/lab && make up")
    refused = host.run(*up)
    assert refused.status != 0
    assert "usermod -aG docker bo" in refused.words
    host.sh("usermod -aG docker bo")
    said = host.run(*up)
    assert said.status == 0, said.words
    assert ADDRESS in said.words
    assert host.run("su", "bo", "-c", "cd ~/lab && make down").status == 0


def test_down_stops_the_hub_and_leaves_the_engine(host: DebianHost, first_up: Said) -> None:
    assert host.run("make", "up").status == 0
    assert host.run("make", "down").status == 0
    assert "does not run" in host.run("make", "status").words
    assert docker_state(host)[0] == "active"
