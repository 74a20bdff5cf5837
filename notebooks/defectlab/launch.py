"""Starting a script on several processes of this machine, from a notebook.

Owns the call of torchrun, with the settings without which it stumbles in a container. Never knows what the script does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# The script that comes with the notebooks: in the image, in a checkout, or as your own copy beside the notebook.
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
_SETTINGS = {
    # One address that always exists, also in a container whose own name nobody can resolve.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    # Ranks that are started again must not find the addresses of those that died.
    # ref: https://github.com/pytorch/pytorch/issues/135712
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # Of its own accord torchrun warns that it sets this.
    "OMP_NUM_THREADS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


@dataclass(frozen=True, slots=True)
class Launched:
    """What came of it.

    Attributes:
        code: exit code; 0 is well.
        seconds: from start to end, with starting Python on every rank.
        output: what all ranks said.
    """

    code: int
    seconds: float
    output: str


def command(script: Path | str, ranks: int, *words: str, restarts: int = 0) -> list[str]:
    """The command line, to look at and to copy."""
    own = ["--nnodes=1", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    own += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    return [sys.executable, "-m", "torch.distributed.run", *own, str(script), *words]


def torchrun(
    script: Path | str, ranks: int, *words: str, restarts: int = 0, env: Mapping[str, str] | None = None, limit: float = 600.0
) -> Launched:
    """Run a script on some ranks and wait.

    Args:
        script: the file.
        ranks: processes to start.
        words: what the script is told.
        restarts: how often all ranks are started again when one dies.
        env: more of the environment.
        limit: seconds after which all of it is ended; the code is 124 then.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command(script, ranks, *words, restarts=restarts), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **_SETTINGS, **(env or {})},
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        # Asked to end, torchrun ends its ranks; killed, it would leave them behind.
        process.terminate()
        output, _ = process.communicate()
        code = 124
    return Launched(code, time.perf_counter() - began, output)
