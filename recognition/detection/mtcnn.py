"""MTCNN: three ever larger networks, each judging the windows that the one before let through (arXiv:1604.02878)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch

from recognition.detection.faces import Faces, no_faces, suppress
from recognition.detection.mtcnn_networks import OUTPUT, PROPOSAL, REFINE, Stage, StageNet, load_stage
from recognition.detection.weights import find_mtcnn
from recognition.detection.windows import (
    box_matrices,
    cut_windows,
    level_sizes,
    moved,
    octaves,
    pack_tiles,
    squared,
)

_STRIDE = 2  # of the first network's map, in pixels of its pyramid level
_BATCH = 512  # windows a pass; 512 windows of 48 pixels need about 0.6 GB inside the last network
_MIRRORED = [1, 0, 2, 4, 3]  # the landmarks' order in a mirrored picture

# Where the last network looks again to place the landmarks: upright squares whose side is this many times the
# landmarks' spread, their center this much of the side above the landmarks', shifted and sized a little this way and
# that, each mirrored too. One look errs by 0.037 of the eye distance on LFW, the mean of these 16 by 0.026; 54 gain
# nothing more.
_VIEW_SIDE, _VIEW_RISE = 3.9, 0.08
_VIEWS = tuple(product((-0.02, 0.02), (-0.02, 0.02), (0.95, 1.05)))  # right, down, size


def build(*, min_face_px: float | None, model: Path | None) -> Mtcnn:
    """Load MTCNN with the weights in the folder `model`, or the installed ones; faces of at least 20 pixels."""
    return Mtcnn(find_mtcnn(model), min_face_px=min_face_px or 20.0)


class Mtcnn:
    """The detector. `min_face_px` bounds the pyramid; `thresholds` are the least scores after each network.

    Scores are probabilities. With `look_again` the landmarks are the mean over many views of each face.
    """

    def __init__(
        self,
        weights: Path,
        *,
        min_face_px: float = 20.0,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.9),
        look_again: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        self._min_face_px = min_face_px
        self._thresholds = thresholds
        self._look_again = look_again
        self._networks = {
            stage.name: load_stage(stage, weights / f"{stage.name}.pt").to(self._device)
            for stage in (PROPOSAL, REFINE, OUTPUT)
        }

    @torch.inference_mode()
    def detect(self, rgb: np.ndarray) -> Faces:
        """Return the faces of uint8 [H, W, 3] RGB, the surest first."""
        boxes = self._propose(rgb)
        if len(boxes) == 0:
            return no_faces()
        levels = octaves(rgb)
        boxes = self._refine(levels, boxes)
        if len(boxes) == 0:
            return no_faces()
        faces = self._conclude(levels, boxes)
        if self._look_again and len(faces):
            landmarks = np.stack([self._mean_landmarks(levels, points) for points in faces.landmarks])
            faces = Faces(faces.boxes, landmarks.astype(np.float32), faces.scores)
        return faces

    def _propose(self, rgb: np.ndarray) -> np.ndarray:
        """Return square boxes [n, 4] around what the first network takes for faces, on all levels of the pyramid."""
        picture = (rgb.shape[0], rgb.shape[1])
        sizes = level_sizes(picture, PROPOSAL.window / self._min_face_px, PROPOSAL.window)
        if not sizes:
            return np.zeros((0, 4), np.float32)
        corners, canvas_size = pack_tiles(sizes)
        canvas = np.zeros((*canvas_size, 3), np.uint8)
        for (height, width), (top, left) in zip(sizes, corners):
            level = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
            canvas[top : top + height, left : left + width] = level
        logits, offsets = self._run(PROPOSAL, canvas[None])
        scores = _probability(logits[0])
        found = [self._level_boxes(scores, offsets[0], picture, size, corner) for size, corner in zip(sizes, corners)]
        boxes, all_scores, all_offsets = (np.concatenate(parts) for parts in zip(*found))
        chosen = suppress(boxes, all_scores, 0.7)
        return squared(moved(boxes[chosen], all_offsets[chosen]))

    def _level_boxes(
        self,
        scores: np.ndarray,
        offsets: np.ndarray,
        picture: tuple[int, int],
        size: tuple[int, int],
        corner: tuple[int, int],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (boxes, scores, offsets) of one tile's windows that pass, in pixels of the picture."""
        (height, width), (top, left) = size, (corner[0] // _STRIDE, corner[1] // _STRIDE)
        rows, columns = ((side - PROPOSAL.window) // _STRIDE + 1 for side in size)  # windows that lie inside the tile
        down, across = slice(top, top + rows), slice(left, left + columns)
        y, x = np.nonzero(scores[down, across] >= self._thresholds[0])
        grid = np.stack([x, y], 1) * _STRIDE
        scale = np.array([picture[1] / width, picture[0] / height])
        boxes = np.concatenate([grid * scale, (grid + PROPOSAL.window) * scale], 1).astype(np.float32)
        level_scores = scores[down, across][y, x]
        chosen = suppress(boxes, level_scores, 0.5)
        return boxes[chosen], level_scores[chosen], offsets[:, down, across][:, y, x].T[chosen]

    def _refine(self, levels: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
        """Return the square boxes that pass the second network."""
        logits, offsets = self._judge(REFINE, levels, box_matrices(boxes, REFINE.window))
        scores = _probability(logits)
        passed = np.flatnonzero(scores >= self._thresholds[1])
        chosen = passed[suppress(boxes[passed], scores[passed], 0.7)]
        return squared(moved(boxes[chosen], offsets[chosen]))

    def _conclude(self, levels: Sequence[np.ndarray], boxes: np.ndarray) -> Faces:
        """Return the faces that pass the last network."""
        matrices = box_matrices(boxes, OUTPUT.window)
        logits, offsets, points = self._judge(OUTPUT, levels, matrices)
        scores = _probability(logits)
        landmarks = _onto_picture(_paired(points), matrices).astype(np.float32)
        passed = np.flatnonzero(scores >= self._thresholds[2])
        boxes = moved(boxes, offsets).astype(np.float32)
        chosen = passed[suppress(boxes[passed], scores[passed], 0.7, by_smaller=True)]
        return Faces(boxes[chosen], landmarks[chosen], scores[chosen])

    def _mean_landmarks(self, levels: Sequence[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
        """Return the mean of what the last network says about views of one face, placed by its landmarks [5, 2]."""
        matrices = view_matrices(landmarks.astype(np.float64), OUTPUT.window)
        windows = cut_windows(levels, matrices, OUTPUT.window, cubic=True)
        both = np.concatenate([windows, windows[:, :, ::-1]])
        points = _paired(self._run(OUTPUT, both)[2])
        plain, mirrored = points[: len(windows)], points[len(windows) :]
        mirrored = np.stack([1 - mirrored[..., 0], mirrored[..., 1]], 2)[:, _MIRRORED]
        means: np.ndarray = _onto_picture((plain + mirrored) / 2, matrices).mean(0)
        return means

    def _judge(self, stage: Stage, levels: Sequence[np.ndarray], matrices: np.ndarray) -> list[np.ndarray]:
        """Run a network over the windows that `matrices` show, in batches of bounded memory."""
        parts = [
            self._run(stage, cut_windows(levels, matrices[start : start + _BATCH], stage.window))
            for start in range(0, len(matrices), _BATCH)
        ]
        return [np.concatenate(outputs) for outputs in zip(*parts)]

    def _run(self, stage: Stage, windows: np.ndarray) -> list[np.ndarray]:
        """Run a network over windows [n, H, W, 3] uint8 RGB."""
        network: StageNet = self._networks[stage.name]
        pixels = torch.from_numpy(np.ascontiguousarray(windows)).to(self._device).permute(0, 3, 1, 2)
        # The scale these weights were trained with: a byte of 255 becomes 0.996, not 1.
        outputs = network((pixels.float() - 127.5) / 128)
        return [output.cpu().numpy() for output in outputs]


def view_matrices(landmarks: np.ndarray, side: int) -> np.ndarray:
    """Return [8, 2, 3]: from windows of `side` pixels to the picture, for the upright views of one face."""
    center = landmarks.mean(0)
    reach = _VIEW_SIDE * np.sqrt(((landmarks - center) ** 2).sum(1).mean())
    across = landmarks[1] - landmarks[0] + landmarks[4] - landmarks[3]
    down = landmarks[3] + landmarks[4] - landmarks[0] - landmarks[1]
    # Half the turn of the eyes and mouth, half that of the line from the ones to the other.
    angle = (np.arctan2(across[1], across[0]) + np.arctan2(-down[0], down[1])) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrices = np.zeros((len(_VIEWS), 2, 3))
    for matrix, (right, below, size) in zip(matrices, _VIEWS):
        matrix[:, :2] = turn * (size * reach / side)
        middle = center + turn @ np.array([right, below - _VIEW_RISE]) * reach
        matrix[:, 2] = middle - matrix[:, :2] @ np.full(2, (side - 1) / 2)
    return matrices


def _paired(points: np.ndarray) -> np.ndarray:
    """Turn the network's [n, 10], five x and five y in [0, 1], into [n, 5, 2]."""
    pairs: np.ndarray = points.reshape(-1, 2, 5).transpose(0, 2, 1)
    return pairs


def _onto_picture(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Take points [n, 5, 2], in [0, 1] over their windows, to pixels of the picture."""
    pixels = points * OUTPUT.window - 0.5
    moved: np.ndarray = np.einsum("nij,nkj->nki", matrices[:, :, :2], pixels) + matrices[:, None, :, 2]
    return moved


def _probability(logits: np.ndarray) -> np.ndarray:
    probability: np.ndarray = 1 / (1 + np.exp(-logits))
    return probability
