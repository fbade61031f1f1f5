"""Maps as files: values as safetensors, what they belong to as JSON, overlays as PNG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from efface._errors import InputError
from efface._io import atomic_dir, write_json
from efface._lazy import require
from efface.audit.picture import Picture
from efface.cli.outputs import check_free
from efface.explanation.explaining import Explanation
from efface.explanation.picturing import to_heat, to_pixels

TENSORS, INDEX = "maps.safetensors", "maps.json"


def check_maps_folder(folder: Path | None, *, force: bool, read: Iterable[Any] = ()) -> None:
    """Refuse before the work is done what could not be written after it; `read` as in `check_free`."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--maps {folder} is a file: write a folder")
    check_free([folder / TENSORS, folder / INDEX], "--maps", force=force, read=read)
    require("matplotlib", extra="report")


def write_maps(
    folder: Path, found: Explanation, images: Tensor, names: Sequence[str], classes: Sequence[str] | None
) -> None:
    """Write `maps.safetensors` (method -> `(n, h, w)`), `maps.json` (a row an image) and a PNG for each map.

    Args:
        folder: Where to; files of the same names are replaced, others are left alone.
        found: What was explained.
        images: `(n, channels, h, w)` in [0, 1].
        names: Names of the images.
        classes: Names of the classes, if they have any.
    """
    rows = [_row(found, i, name, classes) for i, name in enumerate(names)]
    with atomic_dir(folder) as temporary:
        save_file({name: maps.values.float().contiguous() for name, maps in found.maps.items()}, temporary / TENSORS)
        write_json(temporary / INDEX, {"images": rows})
        for i, row in enumerate(rows):
            pixels = to_pixels(images[i])
            for method, maps in found.maps.items():
                picture = Picture(method, (), pixels, to_heat(maps.heat[i]))
                (temporary / row["overlays"][method]).write_bytes(picture.png())


def _row(found: Explanation, i: int, name: str, classes: Sequence[str] | None) -> dict[str, Any]:
    said = found.probabilities[i]
    k = int(said.argmax())
    stem = f"{i:04d}-{PurePosixPath(name).stem.replace(' ', '-')}"
    return {
        "image": name,
        "class": k,
        "class name": None if classes is None else classes[k],
        "probability": float(said[k]),
        "probability with the rest replaced": {m: float(maps.told[i]) for m, maps in found.maps.items()},
        "mask keeps": {m: float(maps.size[i]) for m, maps in found.maps.items() if maps.size is not None},
        "overlays": {method: f"{stem}-{method}.png" for method in found.maps},
    }
