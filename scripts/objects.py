"""Owns finding and removing this lab's Docker objects, by label and name. Never touches another lab's.

usage: objects.py labs | end-labs | remove-network | remove-homes
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import yaml
from docker.errors import APIError, DockerException, NotFound

GRACE_SECONDS = 10
AT_ONCE = 16


def lab() -> dict[str, Any]:
    """What lab.yaml says, unvalidated: a lab must be stoppable also after somebody broke the file."""
    with open(os.environ.get("GPULAB_CONFIG", "lab.yaml")) as file:
        content = yaml.safe_load(file)
    return content if isinstance(content, dict) else {}


def name() -> str:
    """The lab's name, as it stands on every object of it."""
    return str(lab().get("name", "gpulab"))


def containers(client: Any) -> list[Any]:
    """The containers of this lab, running or not."""
    found: list[Any] = client.containers.list(all=True, filters={"label": f"io.gpulab.lab={name()}"}, ignore_removed=True)
    return found


def show_labs(client: Any) -> None:
    """One line per lab."""
    found = containers(client)
    print(f"    {len(found)} of this lab's containers are there")
    for container in found:
        label = container.labels.get
        server = f"/{label('io.gpulab.server')}" if label("io.gpulab.server") else ""
        who, profile = f"{label('io.gpulab.user', '?')}{server}", label("io.gpulab.profile", "?")
        print(f"      {who:24} {profile:12} {container.status}")


def end(container: Any) -> str:
    """Stops and removes one container; one that is already gone is as good."""
    try:
        container.stop(timeout=GRACE_SECONDS)
        container.remove(force=True, v=True)
    except NotFound:
        pass
    except APIError as error:
        # 409: the engine is removing it already, because it was to be removed when it stopped.
        if error.status_code != 409:
            return f"{container.name} could not be stopped ({error.explanation})"
    return ""


def end_labs(client: Any) -> None:
    """Stops and removes all labs at once; homes are volumes with names and stay."""
    found = containers(client)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = [problem for problem in pool.map(end, found) if problem]
    print(f"    {len(found) - len(problems)} labs have ended; homes, data and models stay")
    if problems:
        raise SystemExit(f"{'; '.join(problems)}: restart the Docker engine, then run 'make down' again.")


def remove_network(client: Any) -> None:
    """Removes the lab's network; one that something still uses stays."""
    wanted = str(lab().get("network", {}).get("name", "gpulab"))
    for network in client.networks.list(names=[wanted]):
        if network.name == wanted:
            try:
                network.remove()
                print(f"    removed network {wanted}")
            except APIError:
                print(f"    network {wanted} is still in use and stays")


def remove_homes(client: Any) -> None:
    """Removes everybody's home. Only `make clean-all` asks for this, after it asked the person."""
    prefix = f"{name()}-home-"
    for volume in client.volumes.list():
        if volume.name.startswith(prefix):
            volume.remove()
            print(f"    removed volume {volume.name}")


COMMANDS: dict[str, Callable[[Any], None]] = {
    "labs": show_labs,
    "end-labs": end_labs,
    "remove-network": remove_network,
    "remove-homes": remove_homes,
}


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(f"usage: objects.py {' | '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        client = docker.from_env(timeout=60)
        COMMANDS[arguments[0]](client)
    except DockerException:
        print("No Docker engine answers: run 'make setup', then this command again.", file=sys.stderr)
        return 1
    except (OSError, yaml.YAMLError) as error:
        print(f"lab.yaml cannot be read ({error}): mend it, then run this command again.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
