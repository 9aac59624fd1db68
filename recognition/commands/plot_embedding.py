"""Draw the embedding space of named people: PCA, t-SNE, and the files of TensorBoard's projector with thumbnails.

    python eval/plot_embedding.py embedded/ plots/ --people 20
    python eval/plot_embedding.py embedded/ plots/ --names Ada_Lovelace Alan_Turing --faces aligned/
    tensorboard --logdir plots/projector

EMBEDDED is what embed_faces.py wrote of a folder of people. OUT gets pca.png, tsne.png and projector/. Without --names
the people with the most pictures are taken; --faces adds thumbnails. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration
from recognition.embedding.projector import (
    MAX_POINTS,
    draw_points,
    require_scikit_learn,
    two_axes,
    write_projector,
)
from recognition.embedding.store import Embeddings, read_embeddings
from recognition.embedding.unit_rows import to_unit_rows_
from recognition.errors import DataError
from recognition.formats.image_list import Folder
from recognition.formats.image_tree import identity_of
from recognition.images.codec import decode_rgb, read_image_file
from recognition.registry import nearest
from recognition.work.files import refuse_existing, staged_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, draw, and return the exit status."""
    parser = make_parser("plot_embedding", __doc__)
    add = parser.add_argument
    add("embedded", type=Path, metavar="EMBEDDED", help="a folder that embed_faces.py wrote")
    add("output", type=Path, metavar="OUT", help="folder to make")
    add("--people", type=positive_int, default=20, metavar="N", help="the people with the most pictures (20)")
    add("--names", nargs="+", metavar="NAME", help="these people instead")
    add("--faces", type=Path, metavar="DIR", help="the folder that was embedded, for thumbnails in the projector")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace OUT")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    require_scikit_learn()
    refuse_existing(args.output, overwrite=args.overwrite)
    found = read_embeddings(args.embedded)
    owners = [identity_of(key) for key in found.keys]
    names = _chosen(owners, args)
    rows = [row for row, owner in enumerate(owners) if owner in names]
    if len(rows) > MAX_POINTS:
        raise DataError(
            f"{args.embedded}: {len(rows):,} pictures; expected at most {MAX_POINTS:,}; choose fewer people"
        )
    people = [owners[row] for row in rows]
    units = _units(args.embedded, found, rows)
    pictures = [] if args.faces is None else [_picture(args.faces, found.keys[row]) for row in rows]
    title = f"{count(len(names), 'person').replace('persons', 'people')}, {count(len(rows), 'picture')}"
    with staged_folder(args.output, replace=args.overwrite) as folder:
        for method, spelled in (("pca", "PCA"), ("tsne", "t-SNE")):
            points = two_axes(units, method, seed=args.seed)
            (folder / f"{method}.png").write_bytes(draw_points(points, people, f"{spelled}: {title}"))
        write_projector(folder / "projector", units, people, pictures)
    print(f"drew {title} in {duration(watch.seconds)}: {args.output}")


def _chosen(owners: Sequence[str], args: argparse.Namespace) -> set[str]:
    known = Counter(owner for owner in owners if owner)
    if not known:
        raise DataError(f"{args.embedded}: names no people; expected embeddings of a folder of people; embed one")
    if args.names is None:
        return {name for name, _ in sorted(known.items(), key=lambda item: (-item[1], item[0]))[: args.people]}
    for name in args.names:
        if name not in known:
            raise DataError(f"{args.embedded}: nobody is called {name!r}{nearest(name, known)}")
    return set(args.names)


def _units(folder: Path, found: Embeddings, rows: Sequence[int]) -> np.ndarray:
    units = np.array(found.vectors[list(rows)], dtype=np.float64)
    lengths = to_unit_rows_(units)
    if not np.isfinite(lengths).all():
        key = found.keys[rows[int(np.flatnonzero(~np.isfinite(lengths))[0])]]
        raise DataError(f"{folder}: the embedding of {key!r} is not finite; expected numbers; embed that picture again")
    return units


def _picture(faces: Path, key: str) -> np.ndarray:
    path = Folder(faces).path(key)
    if path is None:
        raise DataError(
            f"{faces}: {key!r} leads out of it; expected a picture below; give the folder that was embedded"
        )
    return decode_rgb(read_image_file(path), place=path)
