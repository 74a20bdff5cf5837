"""The peer: JupyterHub with DockerSpawner's defaults.

What is set here is only where things are (ports, folders, network, image) and who may ask (a service token); everything
that decides how a server starts and stops is left as it comes. `bench.plain` fills the environment.
"""

import os

c = get_config()  # type: ignore[name-defined]  # noqa: F821

c.JupyterHub.bind_url = os.environ["BENCH_URL"]
c.JupyterHub.hub_ip = os.environ["BENCH_GATEWAY"]
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.ConfigurableHTTPProxy.api_url = os.environ["BENCH_PROXY_URL"]
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.services = [{"name": "bench", "api_token": os.environ["BENCH_TOKEN"]}]
c.JupyterHub.load_roles = [{"name": "bench", "scopes": ["admin:users", "admin:servers"], "services": ["bench"]}]
c.JupyterHub.spawner_class = "docker"
c.DockerSpawner.image = os.environ["BENCH_IMAGE"]
c.DockerSpawner.network_name = os.environ["BENCH_NETWORK"]
