"""Stand-in for nvidia-container-runtime-hook: gives a container the device nodes of the GPUs its environment names.

Reads the container's state on standard input and, as NVIDIA's does, NVIDIA_VISIBLE_DEVICES in the container's
configuration: `all`, names, or nothing for `void`, `none` or an empty value. The nodes are copies of /dev/null.
"""

import json
import subprocess
import sys
from pathlib import Path

DEVICES = json.loads(Path("/etc/gpulab-stand-in.json").read_text())


def wanted(environment: list[str]) -> list[int]:
    # Of a variable that stands twice, the last one counts.
    value = dict(entry.partition("=")[::2] for entry in environment).get("NVIDIA_VISIBLE_DEVICES", "")
    if value in ("", "void", "none"):
        return []
    if value == "all":
        return list(DEVICES.values())
    unknown = [name for name in value.split(",") if name not in DEVICES]
    if unknown:
        sys.exit(f"nvidia-container-cli: device error: {','.join(unknown)}: unknown device")
    return [DEVICES[name] for name in value.split(",")]


def main() -> None:
    if sys.argv[1:] != ["prestart"]:
        return
    state = json.load(sys.stdin)
    bundle = Path(state["bundle"])
    config = json.loads((bundle / "config.json").read_text())
    root = bundle / config["root"]["path"]
    indexes = wanted(config["process"]["env"])
    for name in [f"nvidia{index}" for index in indexes] + ["nvidiactl"] * bool(indexes):
        # The container's mount namespace is there already, its root not yet its root.
        command = ["nsenter", "--mount", f"--target={state['pid']}", "mknod", "-m", "666", str(root / "dev" / name)]
        subprocess.run([*command, "c", "1", "3"], check=True)


main()
