"""The lab's own configuration, with the tests' clock also for the services, which JupyterHub gives a bare environment."""

import os

from spawner.config import configure

CLOCK = ("LD_PRELOAD", "GPULAB_TEST_CLOCK")

c = get_config()
configure(c, os.environ["GPULAB_CONFIG"], os.environ)
for service in c.JupyterHub.services:
    if "command" in service:
        service["environment"] = {**service.get("environment", {}), **{name: os.environ[name] for name in CLOCK}}
