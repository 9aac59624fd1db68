"""Decode JPEGs, and refuse those of which picture data are lost. Torch-free.

libjpeg fills what it cannot read with gray and only warns: half a face would pass for a face. simplejpeg is the same
libjpeg-turbo as OpenCV's, equal pixel for pixel and as fast, and raises with libjpeg's first warning. Stray bytes
before a marker lose nothing and are passed over; what the decoder cannot notice is looked for in the scans.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import simplejpeg

from recognition.images.damage import damaged
from recognition.images.jpeg_scans import (
    BARE,
    END,
    FRAMES,
    SCAN,
    ZEROS,
    brings_all,
    holds_zeros,
    walk_scans,
)

SIGNATURE = b"\xff\xd8"
_END_MARK = bytes((0xFF, END))
_MAX_SCANS = 100  # a progressive JPEG has about ten; each is a pass over all pixels, for as few as ten bytes
_MAX_STRAY_PLACES = 128  # markers before which stray bytes are looked for, at a decoding each
_PROGRESSIVE = 2  # SOF2
_ANY_MARKER = re.compile(rb"\xff[^\x00\xff]")
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_STRAY = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_OTHER_KIND = re.compile(r"Unsupported (?!marker)|Could not determine|.*not (implemented|supported|compiled)")
# Warnings about a header: they lose nothing, and hide what libjpeg would warn of after them.
_HEADER = re.compile(r"Invalid Adobe marker|Warning: unknown JFIF|Corrupt JPEG data: bad ICC|Invalid SOS parameters")


@dataclass(frozen=True)
class Head:
    """What the segments before the first scan say; `scan` is where the marker of that scan is."""

    size: tuple[int, int]
    scan: int
    components: int
    is_progressive: bool
    is_turned: bool

    def has_many_scans(self, encoded: bytes) -> bool:
        """Return whether the picture comes in more than one scan."""
        return self.is_progressive or encoded[self.scan + 4] < self.components


# The images of a set mostly come from one encoder and share every byte up to the first scan, the size among them: one
# comparison then replaces the walk over the segments. Those bytes, and what the last JPEG walked has in them.
_last_head: tuple[bytes, Head] = (b"", Head((0, 0), 0, 0, False, False))


def read_head(encoded: bytes, place: str) -> Head:
    """Walk the segments up to the first scan; libjpeg refuses a second frame header, so the first one counts.

    Raises DataError beginning with `place` when they are cut off, or no end mark follows the scan.
    """
    global _last_head
    known, head = _last_head
    if not known or not encoded.startswith(known):
        head = _walk_head(encoded, place)
        _last_head = encoded[: head.scan + 4], head
    if encoded.rfind(_END_MARK) < head.scan:
        raise damaged(place, "is a JPEG cut off before its end")
    return head


def decode_jpeg(encoded: bytes, place: str) -> np.ndarray:
    """Decode into uint8 [H, W, 3] RGB, turned as its EXIF says; DataError when picture data are lost."""
    head = read_head(encoded, place)
    # Counted in the whole file first, which costs nothing: a video after the picture holds such bytes by chance.
    if encoded.count(bytes((0xFF, SCAN))) > _MAX_SCANS and sum(1 for _ in walk_scans(encoded)) > _MAX_SCANS:
        raise damaged(place, f"is a JPEG of more than {_MAX_SCANS} scans")
    rgb, warning = _decode(encoded)
    if warning is not None:
        _check_warning(encoded, head, warning, place)
    if head.has_many_scans(encoded) or encoded.find(ZEROS, head.scan) >= 0:
        _check_scans(encoded, head, place, is_warned=warning is not None)
    if rgb is None or head.is_turned or head.components > 3:
        return decode_with_opencv(encoded, place)
    return rgb


def decode_with_opencv(encoded: bytes, place: str) -> np.ndarray:
    """Decode any picture OpenCV reads into uint8 [H, W, 3] RGB, turned upright; DataError when it cannot."""
    try:
        rgb = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as err:
        raise damaged(place, f"does not decode ({err.err})") from err
    if rgb is None:
        raise damaged(place, "does not decode")
    return rgb


def _decode(encoded: bytes) -> tuple[np.ndarray | None, str | None]:
    """Return the pixels, or None and libjpeg's first warning or error."""
    try:
        return simplejpeg.decode_jpeg(encoded, "RGB"), None
    except ValueError as err:
        return None, str(err)


def _check_warning(encoded: bytes, head: Head, warning: str, place: str) -> None:
    """Raise DataError when the warning, or one that it hides, means lost data.

    JPEGs of a kind that this decoder does not know are left to OpenCV.
    """
    if not head.has_many_scans(encoded):
        scan = next(walk_scans(encoded), None)  # what is between its end and the picture's is not looked at
        encoded = encoded if scan is None else encoded[: scan.end] + _END_MARK
    if _HEADER.match(warning):
        encoded = _without_header_trouble(encoded)
    warning = _decode(encoded)[1] or ""
    while stray := _STRAY.match(warning):
        number, marker = int(stray[1]), int(stray[2], 16)
        if marker == END:
            return  # all data was there before it
        for candidate in _without_stray(encoded, number):
            hidden = _decode(candidate)[1] or ""
            if hidden != warning and (not hidden or _STRAY.match(hidden)):
                encoded, warning = candidate, hidden
                break
        else:
            raise damaged(place, f"is a JPEG that lost data: {number} bytes before marker {marker:#x} are no picture")
    if warning and not _OTHER_KIND.match(warning):
        raise damaged(place, f"is a JPEG that lost data: {warning.removeprefix('Corrupt JPEG data: ')}")


def _without_stray(encoded: bytes, number: int) -> Iterator[bytes]:
    """Yield the JPEG without `number` bytes before each marker in turn: libjpeg may name a later one than theirs."""
    scan = encoded.find(bytes((0xFF, SCAN)))
    for marker in islice(_ANY_MARKER.finditer(encoded, scan + 2), _MAX_STRAY_PLACES):
        yield encoded[: marker.start() - number] + encoded[marker.start() :]


def _without_header_trouble(encoded: bytes) -> bytes:
    """Return the JPEG without application segments and comments, a sequential scan with the parameters it must have."""
    kept = [encoded[:2]]
    at, is_sequential = 2, True
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        end = at + (
            1 if marker == 0xFF else 2 if marker in BARE else 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        )
        if marker in FRAMES:
            is_sequential = marker - 0xC0 != _PROGRESSIVE
        if marker == SCAN:
            break
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(encoded[at:end])
        at = end
    if at + 5 <= len(encoded) and is_sequential:
        parameters = at + 5 + 2 * encoded[at + 4]
        kept.append(encoded[at:parameters] + b"\0\x3f\0")
        at = parameters + 3
    return b"".join([*kept, encoded[at:]])


def _check_scans(encoded: bytes, head: Head, place: str, *, is_warned: bool) -> None:
    """Raise DataError when scans are missing, or a stretch of one is zeros where zeros cannot be."""
    scans = list(walk_scans(encoded))
    if not brings_all(scans, head.components, is_progressive=head.is_progressive):
        raise damaged(place, "is a JPEG cut off before its last scan")
    if any(not scan.zeros_are_flat and holds_zeros(encoded, scan) for scan in scans):
        raise damaged(place, "is a JPEG that lost data: a stretch of its scan is zeros")
    if not scans or not encoded.endswith(ZEROS, scans[-1].begin, scans[-1].end):
        return
    if is_warned or not scans[-1].zeros_are_flat:
        _check_padding(encoded[: scans[-1].end], place)


def _check_padding(encoded: bytes, place: str) -> None:
    """Raise DataError when the zeros at the end of a JPEG without its end mark are not padding: it needs them."""
    whole = encoded.rstrip(b"\0")
    # Two of them may be the picture's own last bits.
    warnings = [_decode(whole + bytes(kept) + _END_MARK)[1] or "" for kept in (0, 1, 2)]
    if all(warning and not _STRAY.match(warning) for warning in warnings):
        raise damaged(place, "is a JPEG that lost data: the end of its last scan is zeros")


def _walk_head(encoded: bytes, place: str) -> Head:
    frame: tuple[int, int, int, int] | None = None  # marker, height, width, components
    is_turned = False
    offset = 2
    while offset + 4 <= len(encoded):
        if encoded[offset] != 0xFF:
            raise damaged(place, f"is a JPEG without a marker at byte {offset}")
        marker = encoded[offset + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            offset += 1
            continue
        if marker in BARE:
            offset += 2
            continue
        if marker in FRAMES and frame is None and offset + 10 <= len(encoded):
            frame = (marker, *struct.unpack_from(">HHB", encoded, offset + 5))
        if marker == SCAN and frame is not None and offset + 5 <= len(encoded):
            return Head(frame[1:3], offset, frame[3], frame[0] - 0xC0 == _PROGRESSIVE, is_turned)
        if marker == SCAN:
            break
        if encoded.startswith(_EXIF, offset + 4):
            is_turned |= _is_turned(
                encoded[offset + 10 : offset + 2 + struct.unpack_from(">H", encoded, offset + 2)[0]]
            )
        offset += 2 + struct.unpack_from(">H", encoded, offset + 2)[0]
    raise damaged(place, "is a JPEG cut off inside its header")


def _is_turned(tiff: bytes) -> bool:
    """Return whether an EXIF block asks for turning, or cannot be read, which is left to OpenCV to judge."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (number,) = struct.unpack_from(f"{order}H", tiff, at)
        entries = [struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * i) for i in range(number)]
    except (KeyError, struct.error):
        return True
    return any(tag == _ORIENTATION and value != 1 for tag, _, _, value in entries)
