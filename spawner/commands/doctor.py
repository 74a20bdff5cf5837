"""`gpulab doctor`: examines this host.

Owns how findings are shown. Never judges and never mends.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from spawner.commands.facts import gather
from spawner.doctor import Finding, examine, exit_code

_WORDS = {0: "All is fine.", 1: "It works, with the warnings above.", 2: "Something is broken: see above."}


def add_to(commands: Any) -> None:
    """Add the command's words to the grammar."""
    parser = commands.add_parser("doctor", help="examine this host; exit 0 fine, 1 warnings, 2 broken", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(words: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Print the findings; the exit code says how bad it is."""
    findings = examine(gather(words.config, env))
    code = exit_code(findings)
    if words.json:
        print(json.dumps({"exit": code, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(text(findings))
        print(_WORDS[code])
    return code


def text(findings: Iterable[Finding]) -> str:
    """The findings for a terminal: one line each, and what to do on the next."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level.value:<8}{finding.sentence}")
        if finding.what_to_do:
            lines.append(f"{'':<8}-> {finding.what_to_do}")
    return "\n".join(lines)
