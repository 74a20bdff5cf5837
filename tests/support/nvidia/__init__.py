"""Stand-ins for NVIDIA's container programs: the prestart hook and the runtime, which need no driver and no device.

Owns their text and where a private engine finds them. They behave as NVIDIA's in what the lab relies on: which variable says
what, and which device nodes follow from it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from spawner.model import Gpu

HOOK = "/usr/local/bin/nvidia-container-runtime-hook"
RUNTIME = "/usr/local/bin/nvidia-container-runtime"
DEVICES = "/etc/gpulab-stand-in.json"


def programs(gpus: Sequence[Gpu]) -> dict[str, str]:
    """Path → text of the files that make an engine find both programs and their GPUs."""
    # Isolated: the hook inherits dockerd's environment, which is the tests' own.
    shebang = f"#!{os.path.realpath(sys.executable)} -I\n"
    here = Path(__file__).parent
    return {
        HOOK: shebang + (here / "hook.py").read_text(),
        RUNTIME: shebang + (here / "runtime.py").read_text(),
        DEVICES: json.dumps({gpu.uuid: gpu.index for gpu in gpus}),
    }
