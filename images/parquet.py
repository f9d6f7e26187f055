"""Copies in parquet files, as Hugging Face's `datasets` writes them: columns, one of them of
encoded images, and in the schema's metadata the names of the classes."""
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from images.archives import ArchiveError, Archives, Member, damaged

IMAGE_COLUMNS = ("image", "img")
NEEDED = ("a parquet file, for which pyarrow is needed: pip install pyarrow (beside NumPy 1: "
          "'pyarrow<26', as newer ones need NumPy 2)")


@dataclass(frozen=True)
class Rows:
    """The columns of a parquet file but for its images: {name: values}, and {name: names of the
    classes} of those that are labels. `members`: how the file, as a container, calls its images."""
    path: Path
    columns: dict[str, list]
    names: dict[str, list[str]]
    members: list[str]

    def labels(self, column: str) -> list[str]:
        """The class name of every row."""
        if column not in self.names:
            raise ArchiveError(f"{self.path}: its column {column} has no names of classes")
        return [self.names[column][label] for label in self.columns[column]]


def parquet_splits(archives: Archives) -> dict[str, list[Path]]:
    """{"train" or "test": files}; that for validation belongs to the training images."""
    splits: dict[str, list[Path]] = {}
    for path in archives.files:
        kind = path.name.split("-")[0].split(".")[0]
        if path.suffix == ".parquet" and kind in ("train", "validation", "valid", "test"):
            splits.setdefault("test" if kind == "test" else "train", []).append(path)
    return splits


def read_rows(path: Path) -> Rows:
    """Raises ArchiveError."""
    file = _open(path)
    schema = file.schema_arrow
    images = _image_column(path, schema)
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = features.get("info", {}).get("features", {})
    names = {name: about["names"] for name, about in features.items() if "names" in about}
    with _whole(path):
        table = file.read(columns=[name for name in schema.names if name != images])
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Rows(path, columns, names, [_member(path, row) for row in range(file.metadata.num_rows)])


def members(path: Path) -> Iterator[Member]:
    """Its images, as images.archives.members gives those of other containers."""
    file = _open(path)
    row = 0
    images = _image_column(path, file.schema_arrow)
    with _whole(path):
        for batch in file.iter_batches(batch_size=64, columns=[images]):
            for image in batch.column(0).to_pylist():
                content = image["bytes"]
                if content is None:
                    raise ArchiveError(f"{path}: names its images ({image['path']}, ...), but does "
                                       "not hold them")
                yield _member(path, row), lambda content=content: content
                row += 1


def _member(path: Path, row: int) -> str:
    return f"{path.stem}-{row:06}"


def _open(path: Path):
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ArchiveError(f"{path}: {NEEDED} ({error})") from error
    with _whole(path):
        return pyarrow.parquet.ParquetFile(path)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    import pyarrow
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(path, "parquet", error) from error


def _image_column(path: Path, schema) -> str:
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            return name
    raise ArchiveError(f"{path}: has no column of images ({' or '.join(IMAGE_COLUMNS)}), but "
                       f"{', '.join(schema.names)}")
