"""The Docker engine, asked by label and told by spec.

Owns the docker library: connections, time limits, the translation of `ContainerSpec` into the engine's words and of the
engine's answers into `Presence` or one of two errors. Never decides and never knows the ledger. 404 means *absent*; every
other failure means *unknown*.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import docker
import docker.errors
import requests
from docker.utils import kwargs_from_env

from spawner.container import LABEL_GPUS, LABEL_LAB, LABEL_LEASE
from spawner.errors import EngineError, EngineRefused, EngineUnknown
from spawner.hostconfig import has_cdi, host_options, mount_options
from spawner.model import ContainerSpec, EngineFacts, HostCapacity, Mount, Presence
from spawner.records import Remains

log = logging.getLogger(__name__)
ANSWER_SECONDS = 10
CALL_SECONDS = 60
LOG_LINES = 1000  # the engine cuts each line at 16 KB, so this bounds the bytes too
# Threads of many labs share one client; docker-py's default pool of 25 would queue them silently.
_POOL = 128
# A command that is run once, such as the look through anybody's folder of images, is not to take the host with it.
ONCE_MEMORY, ONCE_PIDS = 4 << 30, 512


class Engine:
    """One engine. Methods are synchronous and may be called from several threads.

    Args:
        base_url: where the engine is; None means DOCKER_HOST, else the default socket.
        call_seconds: time limit of calls that may take long (create, stop).
        answer_seconds: time limit of questions.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        call_seconds: int = CALL_SECONDS,
        answer_seconds: int = ANSWER_SECONDS,
    ) -> None:
        self._where: dict[str, Any] = {"base_url": base_url} if base_url else dict(kwargs_from_env())
        self._seconds = {"call": call_seconds, "answer": answer_seconds}
        self._clients: dict[str, docker.APIClient] = {}
        # One lock per connection: a slow connect of the patient one must not hold up the quick one.
        self._locks = {"call": threading.Lock(), "answer": threading.Lock()}

    @property
    def client(self) -> docker.APIClient:
        """The connection for calls that may take long."""
        return self._connected("call")

    @property
    def quick(self) -> docker.APIClient:
        """The connection for questions."""
        return self._connected("answer")

    def _connected(self, kind: str) -> docker.APIClient:
        # Connected on first use, not before: the library asks the engine for its API version then, and an engine that is down
        # must be an answer of the call that needs it and not the end of the hub.
        with self._locks[kind]:
            if kind not in self._clients:
                client = docker.APIClient(version="auto", timeout=self._seconds["answer"], max_pool_size=_POOL, **self._where)
                client.timeout = self._seconds[kind]
                self._clients[kind] = client
            return self._clients[kind]

    def close(self) -> None:
        """Close all connections."""
        for kind, lock in self._locks.items():
            with lock:
                if client := self._clients.pop(kind, None):
                    client.close()

    def facts(self) -> EngineFacts:
        """What the engine says about itself and its host.

        Raises:
            EngineUnknown: it does not answer.
        """
        with translated("ask the engine about itself"):
            info = self.quick.info()
        cdi = has_cdi(info, self.quick.api_version)
        return EngineFacts(
            version=str(info.get("ServerVersion", "")),
            capacity=HostCapacity(cpus=int(info["NCPU"]), memory=int(info["MemTotal"])),
            cdi=cdi,
            default_runtime=str(info.get("DefaultRuntime", "")),
        )

    def presence(self, lease_id: str) -> Presence:
        """What the engine says about the container of a lease; *unknown* instead of an exception."""
        try:
            found = self._by_lease(lease_id)
        except EngineError as error:
            log.warning("presence of lease %s is unknown: %s", lease_id, error)
            return Presence.UNKNOWN
        return _presence({container.get("State", "") for container in found})

    def survey(self, lab: str) -> dict[str, Presence]:
        """Lease id → presence of every container of this lab, in one question.

        Raises:
            EngineUnknown: the engine does not answer.
        """
        with translated("list the lab's containers"):
            found = self.quick.containers(all=True, filters={"label": f"{LABEL_LAB}={lab}"})
        states: dict[str, set[str]] = {}
        for container in found:
            states.setdefault(container["Labels"].get(LABEL_LEASE, ""), set()).add(container.get("State", ""))
        return {lease_id: _presence(seen) for lease_id, seen in states.items()}

    def gpus_by_lease(self, lab: str) -> dict[str, frozenset[str]]:
        """Lease id → UUIDs that its container was made with, for every container of this lab.

        Raises:
            EngineUnknown: the engine does not answer.
        """
        with translated("list the lab's containers"):
            found = self.quick.containers(all=True, filters={"label": f"{LABEL_LAB}={lab}"})
        return {
            container["Labels"].get(LABEL_LEASE, ""): frozenset(container["Labels"].get(LABEL_GPUS, "").split(",")) - {""}
            for container in found
        }

    def remove(self, lease_id: str, stop_seconds: int = 10) -> None:
        """Stop and remove the container of a lease. Idempotent; gone already is success.

        Raises:
            EngineError: the engine did not do it.
        """
        for container in self._by_lease(lease_id):
            with translated("stop the container"):
                try:
                    self.client.stop(container["Id"], timeout=stop_seconds)
                    self.client.remove_container(container["Id"], force=True, v=True)
                except docker.errors.NotFound:
                    continue
                except docker.errors.APIError as error:
                    # 409: another call is removing it already.
                    if error.status_code != 409:
                        raise

    def remains(self, lease_id: str) -> Remains | None:
        """What is known about the container of a lease that does not run any more; None where there is no container.

        Raises:
            EngineError: the engine does not answer.
        """
        if not (found := self._by_lease(lease_id)):
            return None
        with translated("look at the container"):
            container = self.quick.inspect_container(found[0]["Id"])
        state, memory = container["State"], container.get("HostConfig", {}).get("Memory")
        error = str(state.get("Error") or "")[:200]
        return Remains(state.get("ExitCode"), bool(state.get("OOMKilled")), error, int(memory or 0), self.last_words(lease_id))

    def last_words(self, lease_id: str) -> bytes:
        """The end of what the container of a lease wrote to its log; b'' where it cannot be had.

        The log, and no file of the container: to read a file, the engine mounts all of its volumes and holds on to the
        container meanwhile, so a NAS that stalls would keep the lab from being ended.
        """
        try:
            found = self._by_lease(lease_id)
            with translated("read the container's log"):
                return bytes(self.quick.logs(found[0]["Id"], tail=LOG_LINES)) if found else b""
        except EngineError as error:
            log.info("the log of lease %s cannot be read: %s", lease_id, error)
            return b""

    def start(self, container_id: str) -> None:
        """Start a created container.

        Raises:
            EngineError: the engine did not do it.
        """
        with translated("start the container"):
            self.client.start(container_id)

    def address(self, container_id: str, network: str) -> str:
        """The container's address on the labs' network.

        Raises:
            EngineError: the engine does not know the container or its address.
        """
        with translated("find the container's address"):
            networks = self.quick.inspect_container(container_id)["NetworkSettings"]["Networks"]
        if not (ip := networks.get(network, {}).get("IPAddress")):
            raise EngineRefused("The lab's container ended at once.", _ADMIN)
        return str(ip)

    def create(self, spec: ContainerSpec, command: Sequence[str] | None, port: int) -> str:
        """Create, not start, the container of a spec; the engine's id of it.

        Raises:
            EngineRefused: the engine said no (missing image, name taken, limits it cannot give).
            EngineUnknown: no sensible answer; the container may yet appear.
        """
        with translated("create the container"):
            host_config = self.client.create_host_config(**host_options(spec))
            answer = self.client.create_container(
                image=spec.image,
                command=list(command) if command else None,
                name=spec.name,
                user=spec.user,
                environment=dict(spec.env),
                labels=dict(spec.labels),
                ports=[port],
                stop_signal="SIGTERM",
                host_config=host_config,
            )
        return str(answer["Id"])

    def image_present(self, image: str) -> bool:
        """Whether the engine has the image.

        Raises:
            EngineUnknown: it does not answer.
        """
        with translated("look for the image"):
            try:
                self.quick.inspect_image(image)
            except docker.errors.ImageNotFound:
                return False
        return True

    def ensure_network(self, name: str, lab: str) -> str:
        """Make the labs' bridge network where it is missing; the address of its gateway on the host.

        Raises:
            EngineError: the engine did not do it, or the network has no gateway on this host.
        """
        with translated("prepare the network"):
            try:
                network = self.quick.inspect_network(name)
            except docker.errors.NotFound:
                self.quick.create_network(name, driver="bridge", labels={LABEL_LAB: lab}, check_duplicate=True)
                network = self.quick.inspect_network(name)
        for block in network.get("IPAM", {}).get("Config") or []:
            if gateway := block.get("Gateway"):
                return str(gateway).split("/")[0]
        raise EngineRefused(f"The Docker network {name!r} has no gateway.", "Remove it; it is made again at the next start.")

    def remove_network(self, name: str) -> None:
        """Remove a network. Idempotent."""
        with translated("remove the network"):
            try:
                self.quick.remove_network(name)
            except docker.errors.NotFound:
                return

    def run_once(
        self, image: str, command: Sequence[str], *, mounts: Sequence[Mount], user: str, network: str = "none",
        env: Mapping[str, str] | None = None, seconds: int = 600,
    ) -> tuple[int, str]:  # fmt: skip
        """Run a command in a container of its own, remove it, and hand back exit code and output.

        Raises:
            EngineError: the container could not be run or did not end in time.
        """
        with translated("run a command in the image"):
            host_config = self.client.create_host_config(
                mounts=cast(Any, mount_options(mounts)), network_mode=network, cap_drop=["ALL"],
                security_opt=["no-new-privileges"], mem_limit=ONCE_MEMORY, memswap_limit=ONCE_MEMORY, pids_limit=ONCE_PIDS,
            )  # fmt: skip
            made = self.client.create_container(
                image, list(command), user=user, environment=dict(env or {}), host_config=host_config
            )
            try:
                self.client.start(made["Id"])
                code = self.client.wait(made["Id"], timeout=seconds)["StatusCode"]
                output = self.client.logs(made["Id"], tail=LOG_LINES).decode("utf-8", "replace")
            finally:
                self.client.remove_container(made["Id"], force=True, v=True)
        return int(code), output

    def _by_lease(self, lease_id: str) -> list[dict[str, Any]]:
        with translated("look for a lease's container"):
            found: list[dict[str, Any]] = self.quick.containers(all=True, filters={"label": f"{LABEL_LEASE}={lease_id}"})
        return found


def _presence(states: set[str]) -> Presence:
    if not states:
        return Presence.ABSENT
    if states & {"running", "paused", "restarting"}:
        return Presence.RUNNING
    return Presence.CREATED if states == {"created"} else Presence.STOPPED


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn whatever the docker library raises into `EngineRefused` or `EngineUnknown`.

    Args:
        what: the attempt, to complete "The Docker engine did not …".
    """
    try:
        yield
    except docker.errors.APIError as error:
        detail = _detail(error)
        if error.status_code is not None and 400 <= error.status_code < 500:
            raise EngineRefused(f"The Docker engine refused to {what}: {detail}.", _ADMIN) from error
        raise EngineUnknown(f"The Docker engine failed to {what}: {detail}.", _ADMIN) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineUnknown(
            f"The Docker engine does not answer (tried to {what}).",
            "Try again in a minute; if it stays so, tell your admin.",
        ) from error


_ADMIN = "Tell your admin; `gpulab doctor` shows what is wrong."


def _detail(error: docker.errors.APIError) -> str:
    # runc and hooks put the reason at the end of a long line; the engine puts the object's name at its start.
    text = " ".join(str(error.explanation or error).split()) or "no reason given"
    return (text if len(text) <= 400 else f"{text[:150]} … {text[-240:]}").rstrip(".")
