"""Files that are written whole or not at all, append-only logs, locks, and paths that stay inside a folder.

Everything durable in tune-mcp is a file, read by other processes at any moment and perhaps in the middle of a
crash: so a write is a temporary file in the same folder, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Self, cast

from tune_mcp.errors import Json, NotPlain


def write_atomic(path: Path, data: bytes, *, mode: int | None = None, durable: bool = True) -> None:
    """Replace ``path`` by ``data``; a reader sees the old bytes or the new ones, never a mixture.

    ``mode`` defaults to the mode of the file that is replaced, else 0o644. ``durable=False`` leaves out the two
    fsyncs, for a heartbeat that is rewritten every few seconds and may be lost with the machine.
    """
    if mode is None:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            if durable:
                os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def new_folder(path: Path, names: Iterable[str]) -> Path:
    """Make the first folder of these ``names`` in ``path`` that is not there yet. Raises ``FileExistsError``."""
    for name in names:
        with suppress(FileExistsError):
            (path / name).mkdir(parents=True)
            return path / name
    raise FileExistsError(path)


def dump_json(value: object) -> bytes:
    """Strict JSON (no NaN, no infinity), UTF-8, sorted keys, one trailing newline: same value, same bytes.

    A lone surrogate is written as its JSON escape.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True)
    return (text + "\n").encode(errors="backslashreplace")


def _reject(token: str) -> Json:
    raise ValueError(f"{token} is not JSON")


def _finite(token: str) -> float:
    value = float(token)
    if math.isinf(value):
        raise ValueError(f"{token} is too large for a number")
    return value


def _unique(pairs: list[tuple[str, Json]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in names if names.count(key) > 1)!r}")
    return found


class Ambiguous(str):
    """What stands for the values of a duplicate key that differ: it says which key."""

    __slots__ = ()


def _marked(pairs: list[tuple[str, Json]]) -> Json:
    found: dict[str, Json] = {}
    for key, value in pairs:
        found[key] = Ambiguous(f"duplicate key {key!r}") if key in found and found[key] != value else value
    return found


# Made once: an audit of a large run reads ten thousand documents.
_STRICT = json.JSONDecoder(parse_constant=_reject, parse_float=_finite, object_pairs_hook=_unique)
_FOREIGN = json.JSONDecoder(object_pairs_hook=_unique)
_RESULT = json.JSONDecoder(object_pairs_hook=_marked)


def parse_json(data: bytes) -> Json:
    """Read strict JSON. Raises ``ValueError`` for NaN, infinities (1e999 too), doubled keys, bad UTF-8, bad syntax."""
    try:
        return cast(Json, _STRICT.decode(data.decode()))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_foreign_json(data: bytes) -> Json:
    """Read JSON that others wrote as ``json.loads`` does: NaN, infinities, 1e999, a BOM, UTF-16 and lone surrogates.

    Raises ``ValueError`` for a duplicate key (two readers would take different values), bad syntax and deep nesting.
    """
    return _decoded(data, _FOREIGN)


def parse_result(data: bytes) -> Json:
    """Read foreign JSON whose duplicate keys spoil only themselves: ``Ambiguous`` where their values differ."""
    return _decoded(data, _RESULT)


def _decoded(data: bytes, decoder: json.JSONDecoder) -> Json:
    try:
        return cast(Json, decoder.decode(data.decode(json.detect_encoding(data), "surrogatepass")))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_object(data: bytes) -> dict[str, Json]:
    """A strict JSON object; empty for anything else."""
    try:
        value = parse_json(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_object(path: Path) -> dict[str, Json]:
    """A JSON object from a file; empty when the file is missing or is not one."""
    try:
        return parse_object(read_plain(path))
    except OSError:
        return {}


def printable(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 file and no client takes, written as escapes."""
    return text.encode(errors="backslashreplace").decode()


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write ``value`` as strict JSON, whole or not at all."""
    write_atomic(path, dump_json(value), durable=durable)


def append_line(path: Path, line: str) -> None:
    """Append one line with a single ``write`` and make it durable, so that lines of two writers never mix.

    A lone surrogate is written as its escape, which is JSON too. Half a line that a crash left behind is ended first;
    a line that is just being written by another process can look like one, and an empty line follows it.
    Raises ``OSError`` when the disk takes only a part.
    """
    if "\n" in line:
        raise ValueError("a log line holds no line break")
    handle = plain_handle(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line.encode(errors="backslashreplace") + b"\n"
        if os.write(handle, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(handle)
    finally:
        os.close(handle)


_HASHED_UP_TO_BYTES = 16 * 1024 * 1024


def sha256_bytes(data: bytes) -> str:
    """Hex digest of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of the file's bytes, read in blocks."""
    with open_plain(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_mark(path: Path, size: int, mtime_ns: int) -> str:
    """A digest of the file's bytes; of a very large one its size and time. Raises ``OSError``."""
    return sha256_file(path) if size <= _HASHED_UP_TO_BYTES else f"size:{size}:{mtime_ns}"


def has_digest(path: Path, sha256: str) -> bool:
    """Whether the path is a file with that digest."""
    return path.is_file() and sha256_file(path) == sha256


def digest(value: object) -> str:
    """Hex digest of ``value`` as canonical JSON."""
    return sha256_bytes(dump_json(value))


LARGEST_FILE = 256 * 1024 * 1024
"""In bytes. Nothing that is read whole is larger; a log is read in pieces."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_plain(path: Path) -> io.BufferedReader:
    """Open a file that others can write, for reading: the only way to open one (POL-11).

    A pipe, a socket, a device or a folder in its place keeps nobody waiting. Raises ``NotPlain``, or another
    ``OSError``.
    """
    return os.fdopen(plain_handle(path, os.O_RDONLY), "rb")


def open_appending(path: Path) -> io.FileIO:
    """Open a log, or make it, for unbuffered writing at its end. Raises as ``open_plain``, for a link too."""
    return io.FileIO(plain_handle(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW), "ab")


def read_plain(path: Path, limit: int = LARGEST_FILE) -> bytes:
    """The bytes of a plain file of at most ``limit`` bytes. Raises ``NotPlain``, or another ``OSError``."""
    with open_plain(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(size + 1) if size <= limit else b""  # room for ``limit`` costs more than a small file does
        if len(data) > size:  # it grew meanwhile
            data += stream.read(limit + 1 - len(data))
        if max(size, len(data)) > limit:
            raise NotPlain(errno.EFBIG, f"larger than {limit >> 20} MiB", str(path))
    return data


def read_text(path: Path, errors: str = "strict") -> str:
    """``read_plain`` as UTF-8, with every line break as ``\\n``. Raises ``UnicodeDecodeError`` too."""
    return read_plain(path).decode(errors=errors).replace("\r\n", "\n").replace("\r", "\n")


def plain_handle(path: Path, flags: int, mode: int = 0o644) -> int:
    """A descriptor of a plain file. ``O_NONBLOCK`` is for pipes only: it changes nothing on a plain file."""
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise NotPlain(errno.EINVAL, "a socket or a pipe, not a plain file", str(path)) from error
        if error.errno == errno.EISDIR:
            raise NotPlain(errno.EINVAL, "a folder, not a plain file", str(path)) from error
        if error.errno == errno.ELOOP:
            raise NotPlain(errno.EINVAL, "a link, not a plain file", str(path)) from error
        raise
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return handle
    os.close(handle)
    what = next((name for test, name in _KINDS if test(kind)), "something else")
    raise NotPlain(errno.EINVAL, f"{what}, not a plain file", str(path))


def real(path: Path, *, strict: bool = False) -> Path:
    """The path without links. A loop of links is an ``OSError`` where it must exist (``strict``), never another one."""
    return Path(os.path.realpath(path, strict=strict))


def inside(root: Path, relative: str) -> Path:
    """``root / relative``, or ``ValueError`` when it is absolute, climbs out, or leaves ``root`` through a link."""
    pure = PurePosixPath(relative)
    if not relative or pure.is_absolute() or ".." in pure.parts or "\0" in relative:
        raise ValueError(f"{relative!r} is not a path inside {root}")
    path = root / pure
    if not real(path).is_relative_to(real(root)):
        raise ValueError(f"{relative!r} leaves {root} through a link")
    return path


_HOLDER_BYTES = 1 << 16


class FileLock:
    """An exclusive ``flock`` on a file; it lives as long as any process holds the open file, and no longer.

    The file's content names the holder for people who are refused; the lock itself is the only truth.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self.handle = handle

    @classmethod
    def take(cls, path: Path, holder: Callable[[bytes], object] | Mapping[str, Json]) -> Self | None:
        """Take the lock and name the holder in the file, or return None when another process has it.

        A callable ``holder`` gets what the last one wrote.
        """
        lock = cls._flock(path, fcntl.LOCK_EX)
        if lock is None:
            return None
        try:
            lock.describe(holder(os.pread(lock.handle, _HOLDER_BYTES, 0)) if callable(holder) else holder)
        except BaseException:
            lock.release()
            raise
        return lock

    @classmethod
    def share(cls, path: Path) -> Self | None:
        """Hold the lock together with others who share it; None when one process has it for itself alone."""
        return cls._flock(path, fcntl.LOCK_SH)

    @classmethod
    def _flock(cls, path: Path, how: int) -> Self | None:
        handle = _open_lock(path)
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return cls(path, handle)

    @classmethod
    def inherit(cls, path: Path, handle: int) -> Self:
        """Adopt a lock that the parent process took and passed on."""
        os.set_inheritable(handle, False)
        return cls(path, handle)

    def describe(self, holder: object) -> None:
        """Write who holds the lock: one write that covers what stood there, so that a crash tears nothing."""
        os.pwrite(self.handle, dump_json(holder).ljust(os.fstat(self.handle).st_size, b"\n"), 0)

    def release(self) -> None:
        """Give this process's share back; a child that inherited the lock keeps it."""
        os.close(self.handle)


@contextmanager
def alone(path: Path) -> Generator[None]:
    """Wait until no other process is in such a block with this file. Raises ``OSError``."""
    handle = _open_lock(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    """Open the file, or make it for all users: in a shared folder another user's lock can be taken, not replaced."""
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        return plain_handle(path, flags)
    except FileNotFoundError:
        handle = plain_handle(path, flags | os.O_CREAT, 0o666)
    if os.fstat(handle).st_uid == os.getuid():
        os.fchmod(handle, 0o666)
    return handle


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock of ``path``. Raises ``OSError`` when that cannot be known."""
    try:
        handle = plain_handle(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)
