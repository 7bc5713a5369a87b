"""Image files written byte by byte, following the specifications, as no library writes all of them."""

import struct
import zlib

import numpy as np

ORIENTATION = 0x0112  # the tag of EXIF


def png(width: int, height: int, depth: int, rows: bytes = b"", color: int = 0) -> bytes:
    """A PNG of a bit depth and a colour type, 0 for grey, 4 with alpha. rows: each with its filter in front."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = zlib.compress(rows) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def packed(values: np.ndarray, depth: int) -> list[bytes]:
    """The rows of values of a few bits, each in whole bytes, the most significant bit first."""
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(len(values), -1).astype(np.uint8), axis=1)
    return [row.tobytes() for row in rows]


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG of 1 to 16 bits."""
    return png(values.shape[1], values.shape[0], depth, b"".join(b"\0" + row for row in packed(values, depth)))


def tiff(
    size: tuple[int, int],
    content: bytes,
    bits: int,
    photometric: int = 1,
    channels: int = 1,
    extra: tuple[int, ...] = (),
) -> bytes:
    """An uncompressed TIFF. size: (H, W). photometric: 1 is grey, 2 RGB.

    bits: of each channel; 32 are floating-point. extra: ExtraSamples, 0 for a band without a meaning, 2 for alpha.
    """
    height, width = size
    pixels, content = len(content), content + b"\0" * (len(content) % 2)
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * channels),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [8]),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [pixels]),
        338: ("H", [*extra]),
        339: ("H", [3 if bits == 32 else 1] * channels),
    }
    entries = b""
    for tag, (kind, values) in tags.items():
        value = struct.pack(f"<{len(values)}{kind}", *values)
        if len(value) > 4:
            offset, content = 8 + len(content), content + value + b"\0" * (len(value) % 2)
            value = struct.pack("<I", offset)
        if values:
            entries += struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(values)) + value.ljust(4, b"\0")
    directory = struct.pack("<H", len(entries) // 12) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows of stored values: EXIF 2.32, table 6, where row 0 and column 0 are."""
    shown = values if orientation < 5 else values.swapaxes(0, 1)
    shown = shown[::-1] if orientation in (3, 4, 7, 8) else shown
    return shown[:, ::-1] if orientation in (2, 3, 6, 7) else shown
