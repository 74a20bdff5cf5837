"""The command line: `python -m defectlab data textures --out FOLDER`, `… data verify FOLDER`, `… data check FOLDER`.

Owns its words and its exit codes: 0 done, 1 refused or failed with one sentence on standard error, 2 not understood, 130
interrupted. Never shows a traceback for what a person can mend.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from defectlab import folders, layouts, textures
from defectlab.defects import DIFFICULTIES

# As many bad files as one reads before one begins to mend.
MOST_TOLD = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = _parser().parse_args(argv)
    try:
        return int(words.run(words))
    except folders.DataError as error:
        print(f"defectlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("defectlab: interrupted.", file=sys.stderr)
        return 130


def _textures(words: argparse.Namespace) -> int:
    recipe = textures.Recipe(seed=words.seed, difficulty=words.difficulty)
    folder, written = textures.write(words.out, recipe, name=words.name, progress=not words.quiet)
    about = folders.describe(folder)
    told = "Wrote" if written else "There already:"
    print(f"{told} {folder}: {about['images']} images, {about['licence']}, difficulty {about['difficulty']}.")
    return 0


def _verify(words: argparse.Namespace) -> int:
    folder: Path = words.folder
    about = folders.describe(folder)
    found = folders.problems(folder)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise folders.DataError(f"{folder} is damaged: {'; '.join(found[:3])}{more}. Install it again.")
    images = ""
    # Records of sensors are data sets as well, and have no images.
    if (folder / folders.RECORDS).exists():
        rows = folders.read_records(folder)
        images = f", {len(rows)} images, {sum(row['defective'] == '1' for row in rows)} defective"
    print(
        f"{folder} is as it was written: {about['title']}{images}, licence {about['licence']}, "
        f"digest {folders.digest(folder)[:12]}."
    )
    return 0


def _check(words: argparse.Namespace) -> int:
    try:
        found = layouts.check(words.folder, words.layout)
    except folders.DataError as error:
        raise folders.DataError(str(error).replace(str(words.folder), words.called or str(words.folder))) from None
    # All on one stream, the verdict last: whoever reads both streams of a container gets them in any order.
    for problem in found.problems[:MOST_TOLD]:
        print(problem)
    if found.count > MOST_TOLD:
        print(f"… and {found.count - MOST_TOLD} more")
    print(str(found).replace(str(words.folder), words.called or str(words.folder)))
    return 1 if found.count else 0


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m defectlab", description="Data sets for the starter notebooks.")
    data = parser.add_subparsers(metavar="data", required=True).add_parser("data", help="write or check a data set")
    verbs = data.add_subparsers(metavar="WHAT", required=True)
    write = verbs.add_parser("textures", help="write the default data set; one that is complete is left alone")
    write.add_argument("--name", default="textures", help="name of the data set's folder (default: textures)")
    write.add_argument("--difficulty", default="default", choices=list(DIFFICULTIES), help="how hard defects are to see")
    write.add_argument("--seed", type=_seed, default=0, help="start of all random numbers")
    write.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the data set becomes a folder in this one")
    write.add_argument("--quiet", action="store_true", help="no progress bar")
    write.set_defaults(run=_textures)
    verify = verbs.add_parser("verify", help="compare a data set with its checksums")
    verify.add_argument("folder", type=Path, metavar="FOLDER")
    verify.set_defaults(run=_verify)
    check = verbs.add_parser("check", help="look through a folder of your own images, and name the bad files")
    check.add_argument("folder", type=Path, metavar="FOLDER")
    check.add_argument("--layout", choices=layouts.LAYOUTS, help="how it is laid out; else it is found out")
    check.add_argument("--called", default="", help="what to call the folder in words")
    check.set_defaults(run=_check)
    return parser


if __name__ == "__main__":
    sys.exit(main())
