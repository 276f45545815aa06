"""Published files, fetched once into a cache: a file there is whole, or it is not there.

A broken download goes on where it stopped, a wrong one is thrown away, and processes that want the
same file share one download.
"""

import hashlib
import http.client
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from tqdm import tqdm

from fbnet_lesson.files import CACHE_VARIABLE

ATTEMPTS = 5  # as long as each of them brings something
CHUNK = 1 << 16  # bytes read at once, at most


class DownloadError(ValueError):
    """A file could not be had: says which, from where, why, and how to supply it by hand."""

    def __init__(self, source: str, path: Path, reason: str):
        super().__init__(
            f"cannot get {path.name} from {source}: {reason}. To supply it by hand, put it at "
            f"{path}, or pass your copy as weights=PATH or with load_weights(model, PATH)"
        )


class Failure(Exception):
    """Why a download did not come about."""


class Interrupted(Failure):
    """The connection broke before the end of the file; what came so far is kept."""


def download(url: str, path: Path, sha256: str | None = None, timeout: float = 30.0) -> Path:
    """The file of ``url`` at ``path``, fetched unless it is there already; a progress bar shows it.

    Args:
        url: ``http`` or ``https``; proxies are taken from the environment.
        path: in the folder, ``.NAME.part``, ``.NAME.etag`` and ``.NAME.lock`` serve the download.
        sha256: published checksum in hex, or at least its first 8 digits. A file that has another
            one is fetched anew. None: only the length is checked.
        timeout: seconds without a byte, after which the connection counts as broken.

    Returns ``path``.

    Raises:
        DownloadError: names the file, the address, the reason and where to put the file by hand.
            What came so far is kept, and the next call goes on from there.
        ValueError: for another kind of address or checksum.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"cannot download {url!r}: expected an http or https address")
    if sha256 is not None and not re.fullmatch("[0-9a-f]{8,64}", sha256):
        raise ValueError(f"sha256={sha256!r}: expected 8 to 64 lower-case hexadecimal digits")
    try:
        if is_whole(path, sha256):  # before any writing: a shared cache may be read-only
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_process(path):
            if not is_whole(path, sha256):  # another process may have brought it meanwhile
                fetch(url, path, sha256, timeout)
    except Failure as error:
        reason = str(error)
        if path.is_file():
            reason += f"; the file at {path} is not the published one either (its sha256 differs)"
        raise DownloadError(url, path, reason) from error
    except OSError as error:
        reason = f"cannot use {path.parent} ({error}); {CACHE_VARIABLE} names another cache"
        raise DownloadError(url, path, reason) from error
    return path


def download_from_hub(repository: str, file: str, by_hand: Path, timeout: float = 30.0) -> Path:
    """A file of a Hugging Face repository: at ``by_hand`` if it is there, else in the hub's cache.

    That cache, its place, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are the ``huggingface_hub``
    package's, which has to be installed; ``timeout`` is for the server's first answer.

    Raises:
        DownloadError: names the file, the address, the reason and where to put the file by hand.
    """
    if by_hand.is_file():
        return by_hand
    import huggingface_hub as hub

    address = hub.hf_hub_url(repository, file)
    try:
        found = hub.try_to_load_from_cache(repository, file)
        cached = isinstance(found, str)
        if not cached or not is_whole_in_hub(Path(found)):
            # hf_hub_download tries for half a minute where there is no network; this fails at once
            hub.get_hf_file_metadata(address, timeout=timeout)
            found = hub.hf_hub_download(repository, file, force_download=cached)
            if not is_whole_in_hub(Path(found)):
                raise Failure("its sha256 is not the published one")
    except Exception as error:  # the hub's own, its HTTP library's or the system's
        raise DownloadError(address, by_hand, " ".join(str(error).split())) from error
    return Path(found)


def is_whole_in_hub(path: Path) -> bool:
    """Whether the file has the checksum that it is named by in the hub's cache, where it is."""
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return re.fullmatch("[0-9a-f]{64}", name) is None or checksum(path) == name


def is_whole(path: Path, sha256: str | None) -> bool:
    """Whether the file is there and, if a checksum is known, has it."""
    return path.is_file() and (sha256 is None or checksum(path).startswith(sha256))


def checksum(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def beside(path: Path, kind: str) -> Path:
    """The file ``.NAME.KIND`` in the folder of ``path``."""
    return path.with_name(f".{path.name}.{kind}")


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Wait until no other process downloads ``path``; a killed one holds nothing up."""
    lock = FileLock(beside(path, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that downloads {path.name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch(url: str, path: Path, sha256: str | None, timeout: float) -> None:
    """Download to ``.NAME.part`` and rename it once it is known to be right."""
    part = beside(path, "part")
    for attempt in range(1, ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            receive(url, path, timeout, length_needed=sha256 is None)
            break
        except Interrupted:
            if attempt == ATTEMPTS or part.stat().st_size <= before:
                raise
    beside(path, "etag").unlink()
    if sha256 is not None and not (found := checksum(part)).startswith(sha256):
        part.unlink()
        raise Failure(f"its sha256 is {found}, published is {sha256}")
    os.replace(part, path)


def receive(url: str, path: Path, timeout: float, length_needed: bool) -> None:
    """Bring the ``.part`` to its end, from where it stopped if the server has still that file.

    ``.NAME.etag`` says which file the part is the beginning of: an ETag is HTTP's name for one
    version of a file. Source: RFC 9110, sections 8.8.3 (ETag), 13.1.5 (If-Range), 14.2 (Range).
    """
    part, etag_file = beside(path, "part"), beside(path, "etag")
    known = etag_file.read_text("utf-8") if etag_file.exists() else ""
    start = part.stat().st_size if part.exists() and known else 0
    headers = {"User-Agent": "fbnet_lesson"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known}
    with ask(Request(url, headers=headers), timeout) as response:
        etag = response.headers.get("ETag", "")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        goes_on = start > 0 and etag == known and span is not None and int(span[1]) == start
        if response.status == (206 if goes_on else 200):
            if response.headers.get_content_type() == "text/html":
                raise Failure("the server sent a web page (of a log-in to the network?)")
            if response.length is None and length_needed:
                raise Failure("the server does not say how long it is, nor is a checksum published")
            total = int(span[2]) if goes_on else response.length
            if not goes_on:
                start = 0
                part.write_bytes(b"")  # first: a new tag must never stand beside old bytes
                strong = not etag.startswith("W/")  # a weak one stands for more than these bytes
                etag_file.write_text(etag if strong else "", "utf-8")
            with open(part, "ab") as file:
                copy(response, file, start, total, path.name)
                os.fsync(file.fileno())
            return
    if not start:
        raise Failure(f"the server answered {response.status} {response.reason}")
    part.unlink()  # the beginning of another file, or more than the whole of this one
    receive(url, path, timeout, length_needed)


def ask(request: Request, timeout: float) -> http.client.HTTPResponse:
    """The server's answer; Failure says why there is none, or which error it is."""
    try:
        return urlopen(request, timeout=timeout)
    except HTTPError as error:
        if error.code == 416:  # no such range: there is nothing after what we have
            return error
        raise Failure(f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise Failure(f"no connection ({reason})") from error


def copy(
    response: http.client.HTTPResponse, file: BinaryIO, start: int, total: int | None, name: str
) -> None:
    """Append the answer to ``file``; Interrupted if that does not make it ``total`` bytes long."""
    done, broken = start, None
    bar = tqdm(total=total, initial=start, desc=name, unit="B", unit_scale=True, disable=None)
    with bar:
        while True:
            try:
                chunk = response.read1(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                broken = str(error) or type(error).__name__
                break
            if not chunk:
                break
            file.write(chunk)
            file.flush()
            done += len(chunk)
            bar.update(len(chunk))
    if total is not None and done < total:
        broken = broken or "closed by the server"
    if broken:
        announced = "" if total is None else f" of {total:,}"
        raise Interrupted(f"the connection broke after {done:,}{announced} bytes: {broken}")
