"""What people have of a data set: an archive as it was published, packed anew, or unpacked.

A container is a folder, a .tar, compressed or not, or a .zip, in which there may be .tar files.
Each gives the files in it one after another, and none is unpacked to the disk. Which leading
folders there are does not matter: a file is known by the end of its path.
"""
import contextlib
import functools
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from images.folders import is_of_the_data
from system.progress import Progress

TAR_ENDINGS = (".tgz", ".tar.gz", ".tar")
ENDINGS = (*TAR_ENDINGS, ".zip")
BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError)
COPY = re.compile(r" ?\(\d+\)")  # in the name of what was downloaded twice: "x (1).tgz"

Member = tuple[str, Callable[[], bytes]]  # path in its container, and what gives the content

from system.errors import UserError


class ArchiveError(UserError):
    """An archive cannot be used. The message names it and says what is wrong."""


class DamagedArchive(ArchiveError):
    """An archive cannot be read, so that nothing that came from it can be trusted."""


class Missing(ArchiveError):
    """Something is not there. `wanted`: its name."""

    def __init__(self, folder: Path, wanted: str) -> None:
        super().__init__(f"{folder}: {wanted} is missing")
        self.wanted = wanted


# ----------------------------------------------------------------------------------------
# containers

def members(path: Path) -> Iterator[Member]:
    """Every file of a container, in its order; the content can be had until the next one is asked
    for. After the last one an archive was read to its end, and its checksums were right. Raises
    ArchiveError for what no official archive holds: paths that lead outside, links, devices; and,
    here or in the function, for a file that is damaged or no archive at all."""
    if path.is_dir():
        yield from _of_folder(path)
    elif zipfile.is_zipfile(path):
        yield from _of_zip(path)
    else:
        with _reading(path), open(path, "rb") as raw:
            yield from _of_tar(path, raw)


def small_files(path: Path, wanted: Iterable[str], whole: bool = False) -> dict[str, bytes]:
    """The content of the files of a container whose path ends with one of `wanted`; all must be
    there. `whole`: it is read to its end, and so checked, even after the last of them."""
    wanted = set(wanted)
    found = {}
    for name, content in Progress(members(path), f"Looking into {path.name}", unit="file"):
        for end in wanted - found.keys():
            if _ends_with(name, end):
                found[end] = content()
        if len(found) == len(wanted) and not whole:
            break
    if len(found) < len(wanted):
        missing = ", ".join(sorted(wanted - found.keys()))
        raise ArchiveError(f"{path}: holds no {missing}: this is not the official archive")
    return found


def _of_folder(path: Path) -> Iterator[Member]:
    """Names begin with that of the folder: it may be one of those that belong to the path."""
    for name in _names_in_folder(path):
        yield name, (path.parent / name).read_bytes


def _of_tar(path: Path, raw: BinaryIO) -> Iterator[Member]:
    """`raw`: the file, which is read from its start to its end once. In place of a .tar in it come
    its files."""
    def content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
        with _reading(path):
            return archive.extractfile(entry).read()

    start = raw.peek(2)[:2] if hasattr(raw, "peek") else b""
    source = GzipFile(fileobj=raw) if start == b"\x1f\x8b" else raw
    with _reading(path):
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for entry in archive:
                name = PurePosixPath(entry.name)
                if not (entry.isfile() or entry.isdir()) or _leads_outside(name):
                    raise _not_official(path, entry.name)
                if not entry.isfile() or name.name.startswith("._"):  # macOS leaves such files
                    continue
                if name.name.endswith(TAR_ENDINGS):
                    yield from _of_tar(path, archive.extractfile(entry))
                else:
                    yield str(name), functools.partial(content, archive, entry)
        while source.read(1 << 20):  # tarfile itself does not look at gzip's checksum
            pass


def _of_zip(path: Path) -> Iterator[Member]:
    """A .tar in it is opened: in its place come its files."""
    def content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
        with _reading(path):
            return archive.read(entry)  # which compares the checksum

    with _reading(path), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if _leads_outside(name) or stat.S_ISLNK(entry.external_attr >> 16):
                raise _not_official(path, entry.filename)
            if entry.is_dir() or not all(map(is_of_the_data, name.parts)):
                continue
            if entry.filename.endswith(TAR_ENDINGS):
                with archive.open(entry) as raw:
                    yield from _of_tar(path, raw)
            else:
                yield str(name), functools.partial(content, archive, entry)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:  # a .zip's compression, or a password
        raise ArchiveError(f"{path}: cannot be unpacked here ({error}). Unpack it with the program "
                           "that can, and name the folder.") from error
    except BROKEN as error:
        raise damaged(path, ".tgz", error) from error


def damaged(path: Path, kind: str, error: Exception) -> DamagedArchive:
    """Of a file that cannot be read, or that something else was saved as."""
    start = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return DamagedArchive(f"{path}: is no {kind} file but a Git LFS pointer, a line of text "
                              "that stands for it. It was not fetched: `git lfs pull` in its "
                              "repository gets it, or the download link of the web page.")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return DamagedArchive(f"{path}: is no {kind} file but a web page that was saved in its "
                              "place (a login, a warning, an error). Download it again, and "
                              "look at its size.")
    return DamagedArchive(f"{path}: cannot be read to its end; it is damaged, truncated or no "
                          f"{kind} file ({error}). Download it again.")


def _leads_outside(name: PurePosixPath) -> bool:
    return name.is_absolute() or ".." in name.parts


def _not_official(path: Path, name: str) -> ArchiveError:
    return ArchiveError(f"{path}: holds {name!r}, a link or a path that leads outside: this is not "
                        "the official archive")


def _ends_with(name: str, end: str) -> bool:
    return f"/{name}".endswith(f"/{end}")


def _names_in_folder(path: Path) -> list[str]:
    """All files below a folder, as paths that begin with its name."""
    names = []
    for folder, folders, files in os.walk(path, followlinks=True):
        folders[:] = sorted(filter(is_of_the_data, folders))
        start = Path(folder).relative_to(path.parent)
        names += [str(start / file) for file in sorted(filter(is_of_the_data, files))]
    return names


def _names_in_zip(path: Path) -> list[str]:
    with contextlib.suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
        return archive.namelist()
    return []


# ------------------------------------------------------------------------------------- finding them

@dataclass(frozen=True)
class Found:
    """A file by itself, or in a container: `where` it is, for messages, and what gives its
    content."""
    where: str
    content: Callable[[], bytes]


class Archives:
    """All that lies in the folder that a user names: the files and containers in it and in the
    folders in it, and the folder as a container. An archive may be named itself, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        files = [self.folder]
        if self.folder.is_dir():
            deeper = [path for path in sorted(self.folder.glob("*/*")) if path.is_file()]
            files = [path for path in sorted(self.folder.iterdir()) if path.is_file()] + deeper
        self.files = [path for path in files if is_of_the_data(path.name)]
        self.zips = [path for path in self.files if path.suffix == ".zip"]

    def __str__(self) -> str:
        return str(self.folder)

    @functools.cached_property
    def unpacked(self) -> list[str]:
        """The names of all files, as `members` of the folder gives them."""
        return _names_in_folder(self.folder) if self.folder.is_dir() else []

    @functools.cached_property
    def zipped(self) -> dict[Path, list[str]]:
        """The names in every .zip."""
        return {path: _names_in_zip(path) for path in self.zips}

    def container(self, stem: str, *holds: str) -> Path:
        """The container of this name without its ending, or, by whatever name, the .zip or the
        folder that holds files whose paths end with all of `holds` (with a slash at the end: that
        go through such a folder). Raises Missing."""
        for ending in ENDINGS:
            for path in self.files:
                if COPY.sub("", path.name) == f"{stem}{ending}":
                    return path
        for path, names in self.zipped.items():
            inside = [COPY.sub("", PurePosixPath(name).name) for name in names]
            packed = any(f"{stem}{ending}" in inside for ending in TAR_ENDINGS)
            if packed or _holds(names, holds):
                return path
        if _holds(self.unpacked, holds):
            return self.folder
        raise Missing(self.folder, f"the archive {stem}.tgz or {stem}.tar.gz")

    def file(self, *names: str) -> Found:
        """The file by one of these names, in the folder, in a .zip, or deeper in the folder. Raises
        Missing."""
        for name in names:
            for path in self.files:
                if COPY.sub("", path.name) == name:
                    return Found(str(path), path.read_bytes)
            for path, inside in self.zipped.items():
                if member := next((member for member in inside if _called(member, name)), None):
                    return Found(f"{path}, {member}", functools.partial(_from_zip, path, member))
            if member := next((member for member in self.unpacked if _called(member, name)), None):
                path = self.folder.parent / member
                return Found(str(path), path.read_bytes)
        raise Missing(self.folder, f"the archive {' or '.join(names)}")


    def packed_file(self, name: str, stem: str) -> Found:
        """The same, or the file in the archive `stem`. Raises Missing."""
        try:
            return self.file(name)
        except Missing as missing:
            try:
                path = self.container(stem)
                content = small_files(path, [name], whole=True)[name]
            except DamagedArchive:
                raise
            except ArchiveError:
                raise missing from None
        return Found(f"{path}, {name}", lambda: content)


def _called(member: str, name: str) -> bool:
    """Whether a member has this name, whatever its folders; `name` may begin with some of them."""
    return _ends_with(COPY.sub("", member), name)


def _holds(names: list[str], ends: tuple[str, ...]) -> bool:
    """Whether there are `ends`, and each is the end of one of the names; one that itself ends with
    a slash is a folder on the way to one."""
    def there(end: str) -> bool:
        if end.endswith("/"):
            return any(f"/{end}" in f"/{name}" for name in names)
        return any(_ends_with(name, end) for name in names)

    return bool(ends) and all(map(there, ends))


def _from_zip(path: Path, name: str) -> bytes:
    with _reading(path), zipfile.ZipFile(path) as archive:
        return archive.read(name)
