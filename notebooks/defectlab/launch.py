"""Starting a script on several processes of this machine, from a notebook.

Owns the call of torchrun, with the settings without which it stumbles in a container, and what torchrun tells a script about its
place. Never knows what the script does, and leaves no process behind, also when the wait is interrupted.
"""

from __future__ import annotations

import os
import signal
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
    # Ranks find each other through a key-value store, in which each leaves the address it listens on. torchrun makes that store
    # once and hands the same one to ranks that it starts again, although PyTorch's code for ranks counts on a new one each time
    # and so adds no prefix to the keys (2.13: `next_rendezvous` keeps `_bootstrap_store_info`, `_create_c10d_store` has the
    # comment). A rank that asks before the others have written finds the address of a dead one, and fails with "connection
    # refused" or waits. With this setting, rank 0 makes a store of its own for each start.
    # ref: https://github.com/pytorch/pytorch/issues/135712
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # Of its own accord torchrun warns that it sets this.
    "OMP_NUM_THREADS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
# torchrun gives its ranks 30 seconds to end.
_PATIENCE = 45.0


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


def is_first() -> bool:
    """Whether this process is rank 0, the one that speaks for all; also true outside torchrun."""
    return os.environ.get("RANK", "0") == "0"


def restarts() -> int:
    """How often torchrun has started all ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


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
        output, code = _end(process), 124
    except BaseException:
        # Somebody interrupted the cell: the ranks would go on computing.
        _end(process)
        raise
    return Launched(code, time.perf_counter() - began, output)


def _end(process: subprocess.Popen[str]) -> str:
    """Ask torchrun to end, which ends its ranks; killed at once, it would leave them behind. What was said."""
    process.send_signal(signal.SIGTERM)
    try:
        output, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return output
