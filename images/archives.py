"""Archives as they were published: found by their official names, read to their end, and refused by name where they are damaged."""
import contextlib
import functools
import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from system.errors import UserError


class ArchiveError(UserError):
    """An archive cannot be used. The message names it and says what is wrong."""


class DamagedArchive(ArchiveError):
    """An archive cannot be read, so that nothing that came from it can be trusted."""


def find(folder: Path, *names: str) -> Path:
    """The first of `names` that is in `folder`."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ArchiveError(f"{folder}: the archive {' or '.join(names)} is missing")


def members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, a function that gives the content while it is at hand) of every file of a .tgz, in order; after the last one the
    archive was read to its end and gzip's checksum was right. Raises ArchiveError for what no official archive holds: paths that
    lead outside, links, devices; and, here or in the function, for a file that is damaged or no .tgz at all."""
    @contextlib.contextmanager
    def reading() -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise DamagedArchive(f"{path}: cannot be read to its end; it is damaged, truncated or no .tgz file ({error}). "
                                 "Download it again.") from error

    def content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
        with reading():
            return archive.extractfile(entry).read()

    with reading(), open(path, "rb") as raw:  # tarfile itself does not look at gzip's checksum
        source = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
        raw.seek(0)
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for entry in archive:
                name = PurePosixPath(entry.name)
                if name.is_absolute() or ".." in name.parts or not (entry.isfile() or entry.isdir()):
                    raise ArchiveError(f"{path}: holds {entry.name!r}, a link or a path that leads outside: "
                                       "this is not the official archive")
                if entry.isfile() and not name.name.startswith("._"):  # macOS leaves such files in some copies
                    yield str(name), functools.partial(content, archive, entry)
        while source.read(1 << 20):
            pass


def small_files(path: Path, wanted: Iterable[str], whole: bool = False) -> dict[str, bytes]:
    """The content of the files of an archive whose path ends with one of `wanted`; all must be there. `whole`: the archive is
    read to its end, and so checked, even after the last of them."""
    wanted, found = set(wanted), {}
    for name, content in members(path):
        for end in wanted - found.keys():
            if f"/{name}".endswith(f"/{end}"):
                found[end] = content()
        if len(found) == len(wanted) and not whole:
            break
    if len(found) < len(wanted):
        raise ArchiveError(f"{path}: holds no {', '.join(sorted(wanted - found.keys()))}: this is not the official archive")
    return found
