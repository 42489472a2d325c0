import gzip
from pathlib import Path

import pytest

from lumos_core.data.reading.text_files import read_text, text_blocks
from lumos_core.errors import DataError


def test_blocks_are_whole_lines_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "text"
    lines = [b"%d %s" % (n, b"x" * (n % 7)) for n in range(200)]
    path.write_bytes(b"\n".join(lines))
    blocks = list(text_blocks(path, block_bytes=64))
    assert len(blocks) > 10
    assert b"".join(block for _, block in blocks) == b"\n".join(lines)
    for first, block in blocks:
        assert block.startswith(lines[first - 1])


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    for name in ("a.tsv.gz", "a.tsv"):
        (tmp_path / name).write_bytes(gzip.compress("é\r\nb\n".encode()))
        assert read_text(tmp_path / name) == "é\nb\n".encode()


def test_truncated_gzip_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv.gz"
    whole = gzip.compress(b"".join(b"%d\n" % (n * 7919 % 100_003) for n in range(200_000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"log\.tsv\.gz: truncated gzip .* at or after line \d{4,}"):
        read_text(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv.gz"
    whole = bytearray(gzip.compress(b"some text\n" * 1000))
    whole[-8] ^= 0xFF  # the checksum
    path.write_bytes(whole)
    with pytest.raises(DataError, match="damaged gzip"):
        read_text(path)


def test_named_gz_but_is_not(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv.gz"
    path.write_text("user_id\n")
    with pytest.raises(DataError, match="not gzip data"):
        read_text(path)


def test_wrong_encoding_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_bytes(b"item_id\ttitle\n1\tCaf\xe9\n")
    with pytest.raises(DataError, match="line 2: byte 0xe9 at byte position 19 is not UTF-8"):
        read_text(path)


def test_wrong_encoding_is_found_behind_the_first_block(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_bytes(b"0123456\n" * 100 + b"01\xff\n")
    with pytest.raises(DataError, match="line 101: byte 0xff at byte position 802"):
        list(text_blocks(path, block_bytes=32))


def test_utf16_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text("item_id\ttitle\n", encoding="utf-16")
    with pytest.raises(DataError, match="found UTF-16, expected UTF-8"):
        read_text(path)


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, message in (("nope", "no such file"), ("empty", "is empty"), ("", "found a folder")):
        with pytest.raises(DataError, match=message):
            read_text(tmp_path / name)
