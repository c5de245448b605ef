"""Objects by the digest of their bytes, in a store that several machines share.

A name says what its object holds. So writing one twice is harmless, two writers need no agreement,
and nothing that arrives is believed before its bytes have the digest of its name. Stores show an
object whole or not at all; a name under which something else lies is written again.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import pyarrow as pa

from lora import layout
from lora.errors import (
    CardDigestError,
    ObjectDamagedError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StoreAwayError,
    StoreError,
    StoreRefusedError,
)
from lora.object_errors import judged, keyless
from lora.object_place import STALL_S, ObjectPlace

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

__all__ = ["DEADLINE_S", "Objects"]

DEADLINE_S: Final = 60.0
"""Seconds for one operation, with every attempt and the whole transfer."""

_CHUNK: Final = 8 << 20
_FIRST_S: Final = 0.1
_LONGEST_S: Final = 5.0
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")

T = TypeVar("T")


class Objects:
    """One kind of object below one place: `<place>/<folder>/<64 hex><suffix>`.

    Every method may wait for `deadline` seconds, so none belongs on an event loop; all may be
    called from any thread. Nothing is asked of the store before the first of them. Whatever hangs
    is left behind at the deadline, in a thread that ends when what it waits for does.

    Raises of every method:
        StoreAwayError: it does not answer, or cannot now, until the deadline.
        StoreRefusedError: no such bucket, or no permission; told at once.
    """

    def __init__(
        self, place: ObjectPlace, folder: str, suffix: str, *, deadline: float = DEADLINE_S
    ) -> None:
        self.place = place
        self.deadline = deadline
        self._folder = f"{place.root}/{folder}"
        self._suffix = suffix
        self._name = re.compile("([0-9a-f]{64})" + re.escape(suffix))
        self._lock = threading.Lock()
        self._connected: FileSystem | None = None

    def key(self, digest: str) -> str:
        """Bucket and key of the object with this digest; raises `CardDigestError`."""
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise CardDigestError(
                f"a digest is 'sha256:' and 64 hexadecimal digits, not {digest!r}"
            )
        return f"{self._folder}/{found[1]}{self._suffix}"

    def put(self, digest: str, data: bytes | pa.Buffer) -> None:
        """Have the store hold `data`, whose digest it is; one that lies there whole stays."""
        key = self.key(digest)
        size = memoryview(data).nbytes

        def put(fs: FileSystem, ends: float) -> None:
            if _size(fs, key) == size and _digest(fs, key, ends) == digest:
                return
            self._write(fs, key, data)
            if (found := _size(fs, key)) != size:
                raise OSError(f"{found} of {size} bytes arrived")

        self._tried(f"writing {key}", put)

    def offer(self, digest: str, data: bytes | pa.Buffer) -> bool:
        """Write it unless an object of that name and size is there; whether it was written."""
        key = self.key(digest)
        size = memoryview(data).nbytes
        if self._tried(f"looking for {key}", lambda fs, _: _size(fs, key)) == size:
            return False
        self.put(digest, data)
        return True

    def fetch(self, digest: str, path: Path, max_bytes: int) -> None:
        """Bring the object into the new file `path`, which is not there where this raises.

        Raises:
            ObjectNotFoundError: the store has none of that digest.
            ObjectTooLargeError: it has more than `max_bytes`, and was not fetched.
            ObjectDamagedError: what lies there has another digest.
        """
        key = self.key(digest)

        def fetch(fs: FileSystem, ends: float) -> None:
            found = hashlib.sha256()
            file.seek(0)
            file.truncate()
            with _opened(fs, key) as source:
                size = source.size()
                if size > max_bytes:
                    raise ObjectTooLargeError(
                        f"the object {key} in {self.place.words} has {size} bytes; at most "
                        f"{max_bytes} are fetched"
                    )
                for chunk in _chunks(source, ends):
                    found.update(chunk)
                    file.write(chunk)
            file.flush()
            if (actual := f"sha256:{found.hexdigest()}") != digest:
                raise ObjectDamagedError(
                    f"the object {key} in {self.place.words} is damaged: its bytes have the digest "
                    f"{actual}; delete it, or write it again from a machine that has it"
                )

        try:
            # Opened here: what is left behind at the deadline never opens a path that is by then
            # another's.
            with path.open("wb") as file:
                self._tried(f"fetching {key}", fetch)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def delete(self, digest: str) -> bool:
        """Remove the object; whether it was there."""
        key = self.key(digest)
        try:
            self._tried(f"deleting {key}", lambda fs, _: fs.delete_file(key))
        except ObjectNotFoundError:
            return False
        return True

    def digests(self) -> list[str]:
        """The digests of all objects of this kind, sorted."""
        from pyarrow.fs import FileSelector

        folder = FileSelector(self._folder, allow_not_found=True)

        def listed(fs: FileSystem, ends: float) -> list[FileInfo]:
            found: list[FileInfo] = fs.get_file_info(folder)
            if not found:  # or no bucket: the error for what is not there says which
                fs.open_input_file(f"{self._folder}/none").close()
            return found

        try:
            found = self._tried(f"listing {self._folder}", listed)
        except ObjectNotFoundError:
            return []
        names = (self._name.fullmatch(info.base_name) for info in found)
        return sorted(f"sha256:{name[1]}" for name in names if name is not None)

    def _write(self, fs: FileSystem, key: str, data: bytes | pa.Buffer) -> None:
        if self.place.scheme == "file":
            Path(key).parent.mkdir(parents=True, exist_ok=True)
            layout.write_atomically(Path(key), bytes(memoryview(data)))
            return
        with fs.open_output_stream(key) as sink:
            sink.write(data)

    def _tried(self, what: str, work: Callable[[FileSystem, float], T]) -> T:
        """What `work` returns; it is tried again, ever later, until the deadline."""
        ends = time.monotonic() + self.deadline
        wait = _FIRST_S
        before: StoreError | None = None
        while True:
            try:
                return _within(ends, lambda: self._once(what, work, ends))
            except (OSError, pa.ArrowException) as error:
                found = judged(error, self.place.words, what)
                if before is not None and time.monotonic() >= ends:
                    found = before  # it says more than that the time is over
                pause = wait * random.uniform(0.5, 1.0)
                if isinstance(found, StoreRefusedError) or time.monotonic() + pause >= ends:
                    raise found from error
                before = found
            time.sleep(pause)
            wait = min(2 * wait, _LONGEST_S)

    def _once(self, what: str, work: Callable[[FileSystem, float], T], ends: float) -> T:
        fs: FileSystem | None = None
        try:
            fs = self._file_system()
            return work(fs, ends)
        except FileNotFoundError as error:
            if keyless(error):  # the machine has no account, says who would know it
                raise
            # A bucket that is not there answers like an object that is not.
            if fs is None or not self._tried_bucket(fs):
                raise StoreRefusedError(
                    f"the object store {self.place.words} has no such bucket"
                ) from error
            raise ObjectNotFoundError(
                f"the object store {self.place.words} does not have it ({what})"
            ) from error

    def _tried_bucket(self, fs: FileSystem) -> bool:
        """Whether there is the bucket, as far as may be known."""
        from pyarrow.fs import FileType

        try:
            return bool(fs.get_file_info(self.place.bucket).type != FileType.NotFound)
        except (OSError, pa.ArrowException):  # it may be read and not looked at itself
            return True

    def _file_system(self) -> FileSystem:
        with self._lock:
            if self._connected is None:
                self._connected = self.place.connect(min(STALL_S, self.deadline))
            return self._connected


def _size(fs: FileSystem, key: str) -> int | None:
    size: int | None = fs.get_file_info(key).size
    return size


def _digest(fs: FileSystem, key: str, ends: float) -> str:
    found = hashlib.sha256()
    with _opened(fs, key) as source:
        for chunk in _chunks(source, ends):
            found.update(chunk)
    return f"sha256:{found.hexdigest()}"


@contextmanager
def _opened(fs: FileSystem, key: str) -> Iterator[pa.NativeFile]:
    with fs.open_input_file(key) as source:
        try:
            if source.closed:  # so is one that Google's client could not open, and it hides why
                fs.open_input_stream(key).close()
                raise OSError("it could not be opened")
            yield source
        except FileNotFoundError as error:
            # That client reads what was there when it asked, which may be gone by now.
            raise OSError("it was written again while it was read") from error


def _chunks(source: pa.NativeFile, ends: float) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk
        if time.monotonic() > ends:
            raise StoreAwayError("the object store is too slow: it did not arrive in time")


def _within(ends: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises; `TimeoutError` where it does neither until `ends`.

    Not every client can be told to give up: Google's waits two minutes for a server that says
    nothing, and who looks into a folder that was mounted waits for ever.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="object-store", daemon=True).start()
    try:
        return done.result(max(ends - time.monotonic(), 0.0))
    except TimeoutError as error:
        if done.done():
            raise
        raise TimeoutError("nothing was heard in time") from error
