"""The command `gpulab`: what an admin types.

Owns the words of the command line, and what a command may end with: an exit code, one sentence on standard error, never a
traceback. What a command does stands in `spawner.commands`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from spawner import __version__
from spawner.commands import audit, config, data, doctor, gpus, queue, token, usage
from spawner.errors import LabError

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def entry_point() -> int:
    """The console script."""
    return main(sys.argv[1:])


def main(argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words after `gpulab`.
        env: environment; the process's own where not given.

    Returns:
        0 done; 1 refused or failed, with the reason on standard error; 2 not understood; 130 interrupted. `gpulab doctor`
        has its own: 0 fine, 1 warnings, 2 broken.
    """
    env = os.environ if env is None else env
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal without UTF-8 shows a question mark where it cannot show a dash; that is no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        words = build_parser().parse_args(list(argv))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else USAGE
    try:
        run: Callable[[argparse.Namespace, Mapping[str, str]], int] = words.run
        words.config = words.config or env.get("GPULAB_CONFIG") or _nearest_lab_file()
        code = run(words, env)
        sys.stdout.flush()
        return code
    except LabError as error:
        return _fail(error.message)
    except KeyboardInterrupt:
        print("gpulab: Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has ended (`gpulab gpus | head -1`). Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if env.get("GPULAB_DEBUG"):
            raise
        return _fail(
            f"This should not have happened ({type(error).__name__}: {str(error)[:200]}). "
            "Run it again with GPULAB_DEBUG=1 and send us what it prints."
        )


def _fail(sentence: str) -> int:
    print(f"gpulab: {sentence}", file=sys.stderr)
    return FAILED


def _nearest_lab_file() -> str:
    here = Path("lab.yaml")
    beside = Path(__file__).resolve().parent.parent / "lab.yaml"
    return str(beside if beside.exists() and not here.exists() else here)


def build_parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    parser = argparse.ArgumentParser(prog="gpulab", description="Administer a GPU Lab.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"gpulab {__version__}")
    parser.add_argument(
        "--config",
        metavar="FILE",
        default="",
        help="lab.yaml; else $GPULAB_CONFIG, else ./lab.yaml, else the one of the checkout that gpulab runs from",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (token, gpus, queue, usage, audit, doctor, data, config):
        module.add_to(commands)
    return parser
