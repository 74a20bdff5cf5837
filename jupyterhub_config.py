"""JupyterHub's configuration of this lab.

There is nothing to edit here: everything that an admin may change stands in lab.yaml, and `gpulab config check` tells whether
it is right. `spawner/config.py` sets, from it, JupyterHub's own options; `jupyterhub --show-config` shows the result.
"""

import os

from spawner.config import configure

c = get_config()
configure(c, os.environ.get("GPULAB_CONFIG", "lab.yaml"), os.environ)
