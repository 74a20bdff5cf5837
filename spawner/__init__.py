"""GPU Lab: a JupyterHub that gives every engineer a PyTorch container with GPUs of their own.

Owns the public names of the package; never holds logic. `GpuSpawner` is loaded on first use, so that the
pure modules can be imported without JupyterHub.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["GpuSpawner", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "GpuSpawner":
        from spawner.gpu_spawner import GpuSpawner

        return GpuSpawner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
