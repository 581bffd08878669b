"""Receives one file by one HTTP request, and appends it to what is on disk. Every piece is written when it arrives.

huggingface_hub's `http_get` would not do: it writes pieces of 10 MB, so a connection that breaks earlier leaves
nothing, and it appends whatever range a server sends.

answer                                          result
----------------------------------------------- ----------------------------------------------------------------------
206 with the bytes that were asked for          appended
200: the server or a proxy ignores ranges       what is on disk is skipped, the rest is appended
206 with other bytes, or compressed; 416        RangeError: ask without a range, and skip what is on disk
a file of another size                          InterruptedTransferError; nothing is written
"""

import re
from collections.abc import Callable, Mapping
from typing import Protocol

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

from flash_contracts.download_record import format_size

PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class InterruptedTransferError(Exception):
    """The transfer ended before the file was complete. What has arrived is on disk."""


class RangeError(InterruptedTransferError):
    """The server cannot send the rest of the file alone."""


class PartialFile(Protocol):
    """The part of a file that has arrived."""

    size: int
    """Bytes on disk."""

    def append(self, content: bytes) -> None: ...


def receive(
    url: str,
    headers: Mapping[str, str],
    file: PartialFile,
    whole: int,
    *,
    as_range: bool,
    timeout: float,
    note_received: Callable[[int], None],
) -> None:
    """Request the missing part of a file of `whole` bytes. Returns before it is complete if a server sends less.

    `as_range`: whether to request only the missing part. `timeout` is in seconds without any data. `note_received` is
    called with the size of every piece, and may raise an error to end the transfer.

    Raises InterruptedTransferError, httpx2's errors, and what hf_raise_for_status raises for an answer with an error.
    """
    ranged = as_range and file.size > 0
    sent = {**headers, **({"Range": f"bytes={file.size}-"} if ranged else {})}
    timeout = min(timeout, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with get_session().stream("GET", url, headers=sent, follow_redirects=True, timeout=timeout) as response:
        if ranged and response.status_code == RANGE_NOT_SATISFIABLE:
            raise RangeError("the server has no such range of the file (416)")
        hf_raise_for_status(response)
        if response.status_code not in (httpx2.codes.OK, PARTIAL_CONTENT):
            raise InterruptedTransferError(f"the server answered {response.status_code} without the file")
        skipped = file.size - first_byte(response, file.size, whole, ranged=ranged)
        for chunk in response.iter_bytes():
            wanted = chunk[skipped : skipped + whole - file.size]
            skipped = max(skipped - len(chunk), 0)
            if wanted:
                file.append(wanted)
            elif file.size == whole:
                return  # the server sends more than the file's size; the checksum decides
            note_received(len(chunk))


def first_byte(response: httpx2.Response, stored: int, whole: int, *, ranged: bool) -> int:
    """The position in the file of the first byte of the answer: 0, or `stored`.

    Raises InterruptedTransferError if the answer is not a file of `whole` bytes, or the part that was asked for.
    """
    is_encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    length = None if is_encoded else _number(response.headers.get("Content-Length"))
    if response.status_code != PARTIAL_CONTENT:
        _check_size(length, whole)
        return 0
    if is_encoded:
        raise RangeError("the server sent a compressed part")
    asked = stored if ranged else 0
    described = response.headers.get("Content-Range")
    if described is None:
        _check_size(None if length is None else asked + length, whole)
        return asked
    match = CONTENT_RANGE.fullmatch(described.strip())
    if match is None or int(match[1]) != asked:
        raise RangeError(f"the server sent {described[:60]!r} when asked for the bytes from {asked}")
    _check_size(_number(match[3]), whole)
    return asked


def _check_size(size: int | None, whole: int) -> None:
    if size is not None and size != whole:
        raise InterruptedTransferError(
            f"the server sent {format_size(size)} ({size} bytes) instead of the file of {whole} bytes"
        )


def _number(value: str | None) -> int | None:
    return int(value) if value and re.fullmatch(r"\d{1,18}", value, re.ASCII) else None
