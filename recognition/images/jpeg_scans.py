"""What the scans of a JPEG say of themselves, for the damage that its decoder lets pass without a word. Torch-free.

ITU-T T.81: a scan is a marker segment that names its components and the coefficients it brings, and entropy-coded bytes
up to the next marker; in these, 0xFF is followed by 0x00 or by a restart marker.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

SCAN, END, HUFFMAN_TABLES = 0xDA, 0xD9, 0xC4
# SOF0-SOF15 hold the size; C4, C8 and CC in that range are Huffman tables, an extension and arithmetic conditioning.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE = frozenset(range(0xD0, 0xD8)) | {0x01}  # restart markers and TEM carry no length
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_LAST_COEFFICIENT = 63

ZEROS = bytes(32)
"""So many zero bytes on end in a scan are no picture, unless its tables make zero bits mean "as the block before"."""


@dataclass(frozen=True)
class Scan:
    """A scan: components, coefficients first..last, bits (high: known before, low: left after), and where it lies.

    `begin` to `end` are its entropy-coded bytes. With `zeros_are_flat`, zero bits spell blocks without detail.
    """

    components: tuple[int, ...]
    first: int
    last: int
    high: int
    low: int
    begin: int
    end: int
    zeros_are_flat: bool


def walk_scans(encoded: bytes) -> Iterator[Scan]:
    """Yield the scans of a JPEG up to its end mark, passing over whatever follows; stops where it is no JPEG."""
    at = 2
    first_symbols: dict[int, int] = {}  # table class and number -> the symbol of the code of zero bits
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == END:
            return
        if marker == 0xFF or marker in BARE:
            at += 1 if marker == 0xFF else 2
            continue
        payload = encoded[at + 4 : at + 2 + struct.unpack_from(">H", encoded, at + 2)[0]]
        at += 4 + len(payload)
        if marker == HUFFMAN_TABLES:
            _note_tables(payload, first_symbols)
        if marker == SCAN:
            found = _MARKER.search(encoded, at)
            end = len(encoded) if found is None else found.start()
            scan = _scan(payload, first_symbols, at, end)
            if scan is None:
                return
            yield scan
            at = end


def brings_all(scans: list[Scan], components: int, *, is_progressive: bool) -> bool:
    """Return whether every coefficient of each of the components is brought, of a progressive JPEG to its last bit."""
    if not is_progressive:
        return len({component for scan in scans for component in scan.components}) == components
    left: dict[tuple[int, int], int] = {}
    for scan in scans:
        for component in scan.components:
            left |= {(component, i): scan.low for i in range(scan.first, scan.last + 1)}
    return len(left) == components * (_LAST_COEFFICIENT + 1) and not any(left.values())


def holds_zeros(encoded: bytes, scan: Scan) -> bool:
    """Return whether a stretch of the scan was overwritten with zeros; zeros before its end mark are padding."""
    at = encoded.find(ZEROS, scan.begin, scan.end)
    return at >= 0 and len(encoded[at : scan.end].rstrip(b"\0")) > 0


def _note_tables(payload: bytes, first_symbols: dict[int, int]) -> None:
    """Note the first symbol of each Huffman table: codes ascend from zero bits, and symbols are listed by code."""
    at = 0
    while at + 17 < len(payload):
        first_symbols[payload[at]] = payload[at + 17]
        at += 17 + sum(payload[at + 1 : at + 17])


def _scan(payload: bytes, first_symbols: dict[int, int], begin: int, end: int) -> Scan | None:
    number = payload[0] if payload else 0
    if not 1 <= number <= 4 or len(payload) < 4 + 2 * number:
        return None
    named = payload[1 : 1 + 2 * number]
    first, last, bits = payload[1 + 2 * number : 4 + 2 * number]
    high, low = bits >> 4, bits & 15
    wanted = [t >> 4 for t in named[1::2]] if first == 0 and high == 0 else []
    is_flat = all(first_symbols.get(table) == 0 for table in wanted)
    if last > 0:
        # An end of block, or of a band of blocks, leaves the rest without detail.
        ends = (first_symbols.get(0x10 | (t & 15), 1) for t in named[1::2])
        is_flat = is_flat and all(symbol & 15 == 0 and symbol < 0xF0 for symbol in ends)
    return Scan(tuple(named[0::2]), first, min(last, _LAST_COEFFICIENT), high, low, begin, end, is_flat)
