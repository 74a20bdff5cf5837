"""The default data set: photographs of brick, grass and gravel, a part of them with defects drawn in.

Owns the recipe, from three CC0 photographs that come with scikit-image to a data set folder. Never uses the network, and
gives the same images for the same recipe. (Real surfaces with drawn defects, known to the pixel: DAGM 2007 was made so, too.)

Each photograph, 512 × 512, is cut into 16 tiles of 128 × 128, and every image is a piece of 96 × 96 from within one tile. A
tile is the *group* of its images: a split that keeps tiles together shows no pixel of the photograph on both sides.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from tqdm.auto import tqdm

from defectlab import folders
from defectlab.data import DataSet, Record
from defectlab.defects import DIFFICULTIES, KINDS, Drawn, Image, draw
from defectlab.folders import DataError

VERSION = 1
TILE = 128
SIZE = 96
# Mean and deviation of every surface, in grey levels.
BRIGHTNESS, CONTRAST = 120.0, 20.0
# The photographs that this recipe knows, by the checksum of their pixels.
PHOTOGRAPHS = {
    "brick": "664a145c5253f0d66db1a12776785f0ea35a44cc7447ffc933f6d6118dc58643",
    "grass": "b18dae4c68bf850a7a7b28a29d1846c76be890665117b57fd125fe29c4d4ede6",
    "gravel": "3d51ad45f789cd8b98534b7af6bce774e499ead45421135afd757358c7230009",
}
LICENCE = "CC0-1.0"
ATTRIBUTION = (
    "Photographs 'brick' (Bricks25) and 'gravel' (Gravel04) from CC0 Textures, 'grass' (Grass-01 by linolafett on DeviantArt), "
    "all CC0, as they come with scikit-image. Defects drawn by defectlab."
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides every pixel of the data set.

    Attributes:
        seed: start of all random numbers.
        difficulty: a name in `defects.DIFFICULTIES`.
        per_tile: images per tile; there are 48 tiles.
        defective: share of the images of a tile that get a defect.
        version: number of this recipe; a newer one replaces what an older one made.
    """

    seed: int = 0
    difficulty: str = "default"
    per_tile: int = 60
    defective: float = 0.5
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Piece:
    """One image to make: the corner of its place in the photograph, and the defect it gets ('good' for none)."""

    number: int
    source: str
    tile: int
    x: int
    y: int
    kind: str

    @property
    def group(self) -> str:
        """The tile that the piece comes from, which no split may cut."""
        return f"{self.source}-{self.tile:02d}"


def photograph(name: str) -> NDArray[np.uint8]:
    """One of the photographs, from scikit-image's own files.

    Raises:
        DataError: scikit-image is not installed, or has another picture of that name.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise DataError("The photographs come with scikit-image, which is not installed here: pip install scikit-image.")
    path = Path(found.submodule_search_locations[0]) / "data" / f"{name}.png"
    try:
        with PillowImage.open(path) as file:
            pixels = np.asarray(file)
    except OSError as error:
        raise DataError(f"scikit-image's picture {path} cannot be read ({error.strerror or error}).") from None
    if hashlib.sha256(pixels.tobytes()).hexdigest() != PHOTOGRAPHS[name]:
        raise DataError(f"scikit-image's picture {path} is not the one that this recipe was made for.")
    return pixels


def plan(recipe: Recipe) -> Iterator[Piece]:
    """Every image of the data set, in order; a pure function of the recipe."""
    number = 0
    per_row = 512 // TILE
    for source in PHOTOGRAPHS:
        for tile in range(per_row**2):
            rng = np.random.default_rng([recipe.seed, number])
            defective = round(recipe.per_tile * recipe.defective)
            # Every kind as often as the others; where they do not divide evenly, each tile starts with the next kind.
            kinds = [list(KINDS)[(tile * defective + i) % len(KINDS)] for i in range(defective)]
            kinds += ["good"] * (recipe.per_tile - defective)
            for kind in rng.permutation(kinds):
                x, y = rng.integers(0, TILE - SIZE + 1, 2)
                yield Piece(
                    number, source, tile, TILE * (tile % per_row) + int(x), TILE * (tile // per_row) + int(y), str(kind)
                )  # fmt: skip
                number += 1


def render(piece: Piece, sheet: Image, recipe: Recipe) -> tuple[NDArray[np.uint8], Drawn | None]:
    """One image, and the defect in it as drawn (None where there is none); the same for the same arguments.

    Good and defective images go through the same world: turned and mirrored at random, a few specks of dust, which are
    allowed, light that differs from image to image and across it, and sensor noise. Without that, the brightest pixel or
    the mean could tell them apart.

    Args:
        piece: what to make.
        sheet: the whole `surface` that the piece is taken from.
        recipe: its seed and difficulty.
    """
    rng = np.random.default_rng([recipe.seed, piece.number, 1])
    clean = np.rot90(sheet[piece.y : piece.y + SIZE, piece.x : piece.x + SIZE], int(rng.integers(4)))
    clean = _dusted(clean[:, ::-1] if rng.random() < 0.5 else clean, rng)
    drawn = None if piece.kind == "good" else draw(clean, piece.kind, DIFFICULTIES[recipe.difficulty], rng)
    return _camera(clean if drawn is None else drawn.image, rng), drawn


def surface(photo: NDArray[np.uint8]) -> Image:
    """The photograph as a matt surface: as bright and as rich in contrast as the others, with room for a defect to show."""
    grey = photo.astype(float)
    sheet: Image = BRIGHTNESS + CONTRAST * (grey - grey.mean()) / grey.std()
    return sheet


def _dusted(image: Image, rng: np.random.Generator) -> Image:
    """With specks of at most two pixels across."""
    y, x = np.ogrid[:SIZE, :SIZE]
    for _ in range(rng.integers(1, 6)):
        at, width, height = rng.uniform(0, SIZE, 2), rng.uniform(0.4, 0.8), rng.choice((-1.0, 1.0)) * rng.uniform(40.0, 110.0)
        image = image + height * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * width**2))
    return image


def _camera(image: Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    gain, offset, noise = rng.uniform(0.85, 1.15), rng.uniform(-14.0, 14.0), rng.uniform(1.0, 5.0)
    across = np.linspace(-1.0, 1.0, SIZE)
    light = 1.0 + rng.uniform(-0.08, 0.08) * across[:, None] + rng.uniform(-0.08, 0.08) * across[None, :]
    seen = ((image - BRIGHTNESS) * gain + BRIGHTNESS) * light + offset + rng.normal(0.0, noise, image.shape)
    return np.clip(np.rint(seen), 0, 255).astype(np.uint8)


def write(out: Path, recipe: Recipe | None = None, *, name: str = "textures", progress: bool = True) -> tuple[Path, bool]:
    """Write the data set as the folder `out/name`; one that is complete is left alone.

    Returns:
        The folder, and whether it was written now.

    Raises:
        DataError: it cannot be written, or something else has that name.
    """
    recipe = recipe or Recipe()
    if recipe.difficulty not in DIFFICULTIES:
        raise DataError(f"There is no difficulty {recipe.difficulty!r}: choose one of {', '.join(DIFFICULTIES)}.")
    target = out / name
    if _complete(target, recipe):
        return target, False
    sheets = {source: surface(photograph(source)) for source in PHOTOGRAPHS}
    pieces = list(plan(recipe))
    with folders.written(target) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        bar = tqdm(pieces, desc=f"drawing {name}", unit=" images", disable=None if progress else True)
        records = [_save(folder, piece, *render(piece, sheets[piece.source], recipe)) for piece in bar]
        folders.write_description(folder, _description(name, recipe), records)
    return target, True


def more(data: DataSet, per_tile: int, *, seed: int = 1, difficulty: str = "default", progress: bool = True) -> DataSet:
    """Further images from the same tiles as some images of this data set; nothing is written.

    Training images that cost nothing, and test images in the number that a claim needs: 99.5 % takes more than a thousand
    defects to tell from 99 %. Tiles stay where a split has put them.

    Args:
        data: images of a split's part.
        per_tile: how many images to make of every tile that occurs there.
        seed: another one than the data set's own, whose images would come again.
        difficulty: a name in `defects.DIFFICULTIES`.
        progress: show a bar.

    Raises:
        DataError: these are no images of textures, or there is no such difficulty.
    """
    recipe = Recipe(seed=seed, difficulty=difficulty, per_tile=per_tile)
    if difficulty not in DIFFICULTIES:
        raise DataError(f"There is no difficulty {difficulty!r}: choose one of {', '.join(DIFFICULTIES)}.")
    groups = {record.group for record in data.records}
    pieces = [piece for piece in plan(recipe) if piece.group in groups]
    if {piece.group for piece in pieces} != groups:
        raise DataError(f"{data.name} was not cut from these photographs, so no more of it can be drawn.")
    sheets = {source: surface(photograph(source)) for source in PHOTOGRAPHS}
    bar = tqdm(pieces, desc="drawing more", unit=" images", disable=None if progress else True)
    made = [render(piece, sheets[piece.source], recipe) for piece in bar]
    empty = np.zeros((SIZE, SIZE), dtype=bool)
    digest = hashlib.sha256(json.dumps([data.digest, asdict(recipe), sorted(groups)]).encode()).hexdigest()
    return DataSet(
        name=data.name, title=data.title, licence=data.licence, attribution=data.attribution, digest=digest,
        images=np.stack([image for image, _ in made]),
        masks=np.stack([empty if drawn is None else drawn.mask for _, drawn in made]),
        records=tuple(_record(piece, recipe) for piece in pieces),
    )  # fmt: skip


def _record(piece: Piece, recipe: Recipe) -> Record:
    defective = piece.kind != "good"
    box = (piece.x, piece.y, SIZE)
    name = f"drawn/{recipe.seed}/{piece.source}-{piece.number:05d}"
    return Record(name, defective, piece.kind, piece.group, piece.source, box, has_mask=defective)


def _complete(target: Path, recipe: Recipe) -> bool:
    """Whether the folder is this data set; False where there is nothing, or something that may be replaced."""
    try:
        entries = any(target.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataError(f"{target} cannot be looked into ({error.strerror}).") from None
    if not entries:
        return False
    if not (target / folders.DESCRIPTION).exists():
        raise DataError(f"{target} is there already and is no data set of this lab: move it away, or choose another name.")
    there = folders.describe(target).get("recipe")
    wanted = asdict(recipe)
    if there == wanted:
        return not folders.problems(target)
    if not isinstance(there, dict) or {**there, "version": VERSION} != wanted:
        raise DataError(f"{target} was made by another recipe ({there}): choose another name, or remove it first.")
    return False


def _save(folder: Path, piece: Piece, image: NDArray[np.uint8], drawn: Drawn | None) -> dict[str, object]:
    name = f"{piece.source}-{piece.number:05d}.png"
    PillowImage.fromarray(image).save(folder / "images" / name)
    if drawn is not None:
        PillowImage.fromarray(drawn.mask).save(folder / "masks" / name)
    return {
        "file": f"images/{name}",
        "mask": f"masks/{name}" if drawn else "",
        "defective": int(drawn is not None),
        "kind": piece.kind,
        "group": piece.group,
        "source": piece.source,
        "x": piece.x,
        "y": piece.y,
        "size": SIZE,
        "contrast": f"{drawn.contrast:.3f}" if drawn else "",
        "area": int(drawn.mask.sum()) if drawn else 0,
    }


def _description(name: str, recipe: Recipe) -> dict[str, Any]:
    difficulty = DIFFICULTIES[recipe.difficulty]
    return {
        "name": name,
        "title": "Textures with drawn defects",
        "licence": LICENCE,
        "attribution": ATTRIBUTION,
        "source": "scikit-image (brick, grass, gravel)",
        "difficulty": (
            f"{recipe.difficulty}: contrast {difficulty.contrast[0]:g} to {difficulty.contrast[1]:g} standard deviations of the "
            f"texture, {difficulty.scale[0]:g} to {difficulty.scale[1]:g} times the usual size"
        ),
        "recipe": asdict(recipe),
    }
