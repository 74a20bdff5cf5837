"""Turns lab.yaml into JupyterHub's options; `jupyterhub_config.py` calls `configure` and nothing else.

Owns the mapping from `LabConfig` to JupyterHub's and the spawner's traits, the roles of the lab's own services,
and the files that tell other processes where the hub is. Never decides anything about a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spawner import auth, hub_api, labfile, metrics, pages, policy, probe, vault
from spawner.auth import space_guard
from spawner.engine import Engine
from spawner.errors import EngineUnknown, LabError
from spawner.gpu_spawner import GpuSpawner
from spawner.grants import UNLIMITED
from spawner.model import Holder, LabConfig
from spawner.pages import board_routes, line_handlers, notice_handlers, usage_handlers
from spawner.runtime import open_lab

POLL_SECONDS = 10
# What the Docker library reads to find its engine, and what leads to a driver's library in a folder of its own.
KEPT_VARIABLES = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "LD_LIBRARY_PATH")
# The lab's own processes beside the hub, and all that each may do in it.
SERVICE_SCOPES: dict[str, tuple[str, ...]] = {
    # Speaks to engine and ledger only.
    "settler": (),
    "line": ("start:servers",),
    # Stops labs. What their kernels do it asks of each lab with that lab's own token, so this one never enters a container.
    "reclaim": ("delete:servers",),
}
# What the token inside a lab may do in the hub: JupyterHub's own two, and to read what this very lab's owner is to be told.
LAB_SCOPES = ("users:activity!user", "access:servers!server", "read:servers!server")
# Named servers that may exist, running or not, for each that may run at once.
NAMED_SERVERS_PER_RUNNING = 5


def configure(c: Any, file: str, env: Mapping[str, str]) -> None:
    """Set JupyterHub's options from lab.yaml.

    Args:
        c: JupyterHub's configuration object.
        file: path of lab.yaml.
        env: environment, for the overrides that `labfile.load` knows.

    Raises:
        SystemExit: lab.yaml, the secrets or the engine are not usable; the sentence is on standard error.
    """
    try:
        config = labfile.load(file, env)
        prepare_folders(config)
        # Opened here so that a ledger that cannot be used stops the hub: without it every running lab would be forgotten.
        lab = open_lab(str(Path(file).resolve()))
        lab.ledger.note_settings(labfile.settings(file), lab.clock())
        metrics.register(lab)
        gateway = _gateway(config)
        _hub(c, config, str(Path(file).resolve()), gateway)
        _proxy(c, config)
        _services(c, config, file, env)
        _spawner(c, config, file)
        auth.configure_token_sign_in(c)
        pages.configure_pages(c, {key: profile.title for key, profile in config.profiles.items()})
        hub_api.url_file(config).write_text(public_url(config) + "\n")
    except LabError as error:
        print(f"gpulab: {error.message}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        print(
            f"gpulab: The state folder cannot be used ({error}). Check its free space and rights.",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


def public_url(config: LabConfig) -> str:
    """Where a browser on this machine reaches the hub."""
    address = "127.0.0.1" if config.hub.address in ("0.0.0.0", "::", "*") else config.hub.address  # noqa: S104
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{config.hub.port}"


def secrets_folder(config: LabConfig) -> Path:
    """The 0700 folder of the lab's secrets."""
    return config.state / "secrets"


def prepare_folders(config: LabConfig) -> None:
    """Make the state and secrets folders where they are missing.

    Raises:
        LabError: the secrets folder is open to others.
        OSError: a folder cannot be made.
    """
    vault.open_folder(secrets_folder(config))
    # The hub's database holds token hashes and everyone's names; only the hub's own user reads it.
    state = config.state / "state"
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)


def _gateway(config: LabConfig) -> str:
    # The hub must come up, and show its pages, also while the engine is away: the address is remembered.
    remembered = config.state / "state" / "gateway"
    engine = Engine()
    try:
        gateway = engine.ensure_network(config.network.name, config.name)
    except EngineUnknown:
        if not remembered.exists():
            raise
        return remembered.read_text().strip()
    finally:
        engine.close()
    remembered.write_text(gateway + "\n")
    return gateway


async def _forget_ticket(file: str, user: str, server: str, actor: str) -> None:
    lab = open_lab(file)
    with contextlib.suppress(LabError):
        await asyncio.get_running_loop().run_in_executor(
            None, lab.ledger.cancel_tickets_of, Holder(user, server), lab.clock(), actor
        )


def named_servers(config: LabConfig) -> int:
    """How many named servers a person may have, running or not, as JupyterHub reads it: 0 for no limit."""
    most = policy.most_labs(config)
    return 0 if most == UNLIMITED else NAMED_SERVERS_PER_RUNNING * max(1, int(most))


def _hub(c: Any, config: LabConfig, file: str, gateway: str) -> None:
    state = config.state / "state"
    c.JupyterHub.bind_url = f"http://{config.hub.address}:{config.hub.port}"
    # The labs reach the hub's API on their own network's gateway; no other interface listens.
    c.JupyterHub.hub_ip = gateway
    c.JupyterHub.hub_port = config.network.hub_port
    c.JupyterHub.db_url = f"sqlite:///{state / 'jupyterhub.sqlite'}"
    vault.secret(secrets_folder(config), "cookie_secret")
    c.JupyterHub.cookie_secret_file = str(secrets_folder(config) / "cookie_secret")
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.named_server_limit_per_user = named_servers(config)
    c.JupyterHub.spawner_class = GpuSpawner
    c.JupyterHub.default_url = "/hub/home"
    c.JupyterHub.tornado_settings = {
        space_guard.SETTING: functools.partial(probe.require_space, config.state),
        space_guard.FORGET: functools.partial(_forget_ticket, file),
        line_handlers.LAB_FILE: file,
    }
    c.JupyterHub.extra_handlers = [
        *line_handlers.HANDLERS,
        *notice_handlers.HANDLERS,
        *usage_handlers.HANDLERS,
        *board_routes.ROUTES,
    ]


def _proxy(c: Any, config: LabConfig) -> None:
    c.ConfigurableHTTPProxy.auth_token = vault.secret(secrets_folder(config), "proxy_token")
    c.ConfigurableHTTPProxy.pid_file = str(config.state / "state" / "proxy.pid")
    c.ConfigurableHTTPProxy.command = [_proxy_command()]
    # The proxy's own port for the hub: beside the hub's, and only on loopback.
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{config.hub.port + 1 if config.hub.port < 65535 else 65534}"


def _proxy_command() -> str:
    checkout = Path(__file__).resolve().parent.parent
    local = checkout / ".proxy" / "node_modules" / ".bin" / "configurable-http-proxy"
    if local.exists():
        return str(local)
    if found := shutil.which("configurable-http-proxy"):
        return found
    raise LabError("configurable-http-proxy is not installed.", "Run `make up`, which installs it.")


def _services(c: Any, config: LabConfig, file: str, env: Mapping[str, str]) -> None:
    secrets = secrets_folder(config)
    # JupyterHub hands its services a bare environment. A settler that asked another engine than the hub would hear *absent* of
    # every running lab, and one that saw no driver would take the lab's GPUs for simulated ones.
    kept = {name: env[name] for name in KEPT_VARIABLES if name in env}
    c.JupyterHub.services = [
        {"name": "gpulab-cli", "api_token": vault.secret(secrets, "cli_token")},
        *(
            {
                "name": f"gpulab-{name}",
                "api_token": vault.secret(secrets, f"{name}_token"),
                "command": [sys.executable, "-m", f"spawner.services.{name}", str(Path(file).resolve()), str(os.getpid())],
                "environment": kept,
            }
            for name in SERVICE_SCOPES
        ),
    ]
    c.JupyterHub.load_roles = [
        {"name": "gpulab-cli", "scopes": list(auth.CLI_SCOPES), "services": ["gpulab-cli"]},
        *(
            {"name": f"gpulab-{name}", "scopes": list(scopes), "services": [f"gpulab-{name}"]}
            for name, scopes in SERVICE_SCOPES.items()
            if scopes
        ),
    ]


def _spawner(c: Any, config: LabConfig, file: str) -> None:
    c.GpuSpawner.lab_file = str(Path(file).resolve())
    c.GpuSpawner.network_name = config.network.name
    c.GpuSpawner.use_internal_ip = True
    c.GpuSpawner.remove = True
    c.GpuSpawner.default_url = "/lab"
    c.GpuSpawner.server_token_scopes = list(LAB_SCOPES)
    c.GpuSpawner.poll_interval = POLL_SECONDS
    # The spawner keeps both limits itself and tells which one was passed; JupyterHub's own are the net below it.
    c.GpuSpawner.start_timeout = config.limits.start_seconds + config.limits.http_seconds + 30
    c.GpuSpawner.http_timeout = config.limits.http_seconds
    # JupyterHub would end itself after some failed starts in a row; one broken lab must not end the others' hub.
    c.GpuSpawner.consecutive_failure_limit = 0
