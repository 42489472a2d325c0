"""Text files as people deliver them: plain or gzipped, with or without a byte-order mark or CRLF.

Everything that can be wrong below the level of rows is found here and named with file and line:
missing file, folder instead of a file, truncated or broken gzip, text that is not UTF-8.
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from lumos_core.errors import DataError

BLOCK_BYTES = 16 * 2**20
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # what an id must not hold: it would break TSV rows
_EMPTY = "the file is empty, expected at least a header and one row"
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_NO_TEXT = {
    b"PK\x03\x04": "a zip archive or a workbook; unpack it, or save the sheet as CSV",
    b"PAR1": "Parquet; rename it to end in .parquet",
    b"BZh": "packed by bzip2; unpack it",
    b"\xfd7zXZ": "packed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel; save the sheet as CSV",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"%PDF": "a PDF; export the table as CSV",
}
_SHOWN, _NAMED = 40, 12


def shown(value: object) -> str:
    """A value as messages show it: a long one cut, since whole reviews stand in some fields.

    >>> shown("a" * 50) == "'" + "a" * 40 + "…'"
    True
    """
    text = value if isinstance(value, str) else str(value)
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return repr(cut) if isinstance(value, str) else cut


def named(names: Sequence[str]) -> str:
    """Names of columns as messages show them: of a wide table not all.

    >>> named(["a", "b"])
    "'a', 'b'"
    """
    parts = [shown(name) for name in names[:_NAMED]]
    more = len(names) - len(parts)
    return ", ".join([*parts, f"… ({more} more)"] if more else parts)


def read_text(path: Path) -> bytes:
    """The whole file: decompressed, checked to be UTF-8, without byte-order mark and CR.

    Raises:
        DataError: naming file and line if the file is missing, broken or not UTF-8.
    """
    return b"".join(block for _, block in text_blocks(path))


def text_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines of a text file, so that a large one is never in memory at once.

    Yields:
        (line number of the block's first line, counted from 1; the block, cleaned as by
        :func:`read_text`). Blocks are about ``block_bytes`` long; joined they are the file.

    Raises:
        DataError: naming file and line, as soon as the broken place is reached.
    """
    line, offset, rest = 1, 0, b""
    with _open(path) as stream:
        while True:
            chunk = _read(stream, block_bytes, path, line)
            block, newline, rest = (rest + chunk).rpartition(b"\n") if chunk else (rest, b"", b"")
            block += newline
            if block:
                _check_utf8(block, path, line, offset)
                cleaned = block.removeprefix(_UTF8_MARK) if offset == 0 else block
                if offset == 0 and b"\n" not in cleaned:  # line ends of old Macs
                    cleaned = cleaned.replace(b"\r", b"\n")
                yield line, cleaned.replace(b"\r\n", b"\n").replace(b"\r", b" ")
            line += block.count(b"\n")
            offset += len(block)
            if not chunk and not offset:  # a gzip file of no content is not an empty file
                raise DataError(f"{path}: {_EMPTY}")
            if not chunk:
                return


def check_file(path: Path) -> Path:
    """``path`` if it is a readable, non-empty file.

    Raises:
        DataError: if it is not.
    """
    if path.is_dir():
        raise DataError(f"{path}: found a folder, expected a file")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read it; check its owner and mode")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: {_EMPTY}")
    return path


def _open(path: Path) -> BinaryIO:
    check_file(path)
    with path.open("rb") as stream:
        start = stream.read(16)
    magic = start[:2]
    for sign, what in _NO_TEXT.items():
        if start.startswith(sign):
            raise DataError(f"{path}: expected text, found {what}")
    if magic == _GZIP_MAGIC:
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".gz":
        raise DataError(f"{path}: named .gz but not gzip data (first bytes {magic!r}); rename it")
    return path.open("rb")


def _read(stream: BinaryIO, size: int, path: Path, line: int) -> bytes:
    """Up to ``size`` bytes; piece by piece, so that the line of any damage is known."""
    pieces: list[bytes] = []
    missing = size
    try:
        while missing > 0 and (piece := stream.read(min(missing, 2**16))):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)
    except EOFError:
        problem = "truncated gzip (it ends before its end-of-stream marker)"
    except (gzip.BadGzipFile, zlib.error) as error:
        problem = f"damaged gzip ({error})"
    line += sum(piece.count(b"\n") for piece in pieces)
    raise DataError(f"{path}: {problem}, at or after line {line}; download or copy it again")


def _check_utf8(block: bytes, path: Path, line: int, offset: int) -> None:
    if offset == 0 and block.startswith(_UTF16_MARKS):
        raise DataError(f"{path}: line 1: found UTF-16, expected UTF-8; save the file as UTF-8")
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + block[: error.start].count(b"\n")
        raise DataError(
            f"{path}: line {at}: byte 0x{block[error.start]:02x} at byte position "
            f"{offset + error.start} is not UTF-8; convert the file, for example with "
            f"'iconv -f WINDOWS-1252 -t UTF-8'"
        ) from None
