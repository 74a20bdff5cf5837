"""Folders laid out as MVTec AD is: good parts to learn from, good and bad ones to test by, masks beside them.

Owns that layout. Never judges what a mask says, but that it is there, fits its image and marks something.

    train/good/…                        good parts only
    test/good/…  test/KIND/…            KIND is any name for a defect
    ground_truth/KIND/NAME_mask.png     white where the defect is; one for every image of test/KIND/

A folder of several products has one such tree for each.

ref: Bergmann et al. 2019, "MVTec AD", CVPR.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from defectlab.scan import Item, Scan, is_image

GOOD = "good"
SHAPE = "train/good/, test/good/, test/KIND/ and ground_truth/KIND/"


def fits(scan: Scan) -> bool:
    """Whether a folder, or a folder in it, looks like this layout."""
    return bool(products(scan))


def products(scan: Scan) -> list[PurePosixPath]:
    """The trees in a folder: itself, or one per product."""
    found = {
        PurePosixPath(*file.parts[:at]) for file in scan.files for at in (0, 1) if file.parts[at : at + 2] == ("train", GOOD)
    }
    return sorted(found)


def read(scan: Scan) -> list[Item]:
    """Every image, with its mask; what is wrong is noted in the scan."""
    items: list[Item] = []
    for product in products(scan):
        inside = [file for file in scan.files if file.parts[: len(product.parts)] == product.parts]
        source = product.name or scan.folder.resolve().name
        items += _product(scan, product, inside, source)
    return items


def _product(scan: Scan, product: PurePosixPath, files: list[PurePosixPath], source: str) -> list[Item]:
    depth = len(product.parts)
    masks = {file for file in files if file.parts[depth] == "ground_truth" and is_image(file)}
    used: set[PurePosixPath] = set()
    items: list[Item] = []
    for file in files:
        part = file.parts[depth]
        if part not in ("train", "test") or len(file.parts) == depth + 1:
            continue
        if len(file.parts) != depth + 3:
            scan.bad(file, f"lies where no image is expected; images lie in {part}/KIND/")
            continue
        if not is_image(file):
            scan.bad(file, "is no image")
            continue
        kind = file.parts[depth + 1]
        size = scan.image(file)
        if part == "train" and kind != GOOD:
            scan.bad(file, "train/ holds good parts only; bad ones belong into test/")
        mask = None
        if part == "test" and kind != GOOD:
            mask = _mask(product / "ground_truth" / kind, file, masks)
            if mask is None:
                scan.bad(file, f"its mask is missing: ground_truth/{kind}/{file.stem}_mask.png")
            else:
                used.add(mask)
                _check_mask(scan, mask, size)
        items.append(Item(str(file), kind, source, str(mask or "")))
    for mask in sorted(masks - used):
        scan.bad(mask, "is a mask without an image")
    return items


def _mask(folder: PurePosixPath, image: PurePosixPath, masks: set[PurePosixPath]) -> PurePosixPath | None:
    for name in (f"{image.stem}_mask.png", f"{image.stem}.png"):
        if folder / name in masks:
            return folder / name
    return None


def _check_mask(scan: Scan, mask: PurePosixPath, size: tuple[int, int] | None) -> None:
    if not scan.decode:
        return
    pixels = scan.pixels(mask)
    if pixels is None:
        return
    height, width = pixels.shape
    if size is not None and (width, height) != size:
        scan.bad(mask, f"is {width} × {height}, and its image {size[0]} × {size[1]}")
    elif not pixels.any():
        scan.bad(mask, "is empty, but its image counts as defective")
    elif pixels.max() <= 127:
        scan.bad(mask, f"marks its defect with {pixels.max()}: write 255")
