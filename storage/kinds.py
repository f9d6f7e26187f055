"""What a file is that somebody gives as weights, where it is none that can be read: said at
once."""

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

from storage.checkpoint import WeightsError

AGAIN = "Download it again, and look at its size."
IN_PYTORCH = 'In PyTorch: torch.save({load}, "weights.pth").'
FITS = "torchvision's or timm's of the same network fit."
KERAS = f"Weights of Keras have other names and layouts; {FITS}"
TENSORFLOW = f"Its weights have other names and layouts; {FITS}"

# By the bytes that a file begins with.
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer: a line of text that stands for the weights, "
    "which were not fetched. `git lfs pull` in its repository gets them, or the download link of "
    "the web page.",
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file (.h5), as Keras writes it. {KERAS}",
    b"\x93NUMPY": "a NumPy array (.npy), without the names of parameters. Save a dictionary of "
    "arrays with jittor.save.",
    b"PAR1": "a parquet file: a table of data, not weights.",
    b"ARROW1": "an Arrow file: a table of data, not weights.",
    b"GGUF": "a GGUF file, of a language model.",
    b"\x1f\x8b": "compressed with gzip. Unpack it first.",
    b"BZh": "compressed with bzip2. Unpack it first.",
    b"\xfd7zXZ\x00": "compressed with xz. Unpack it first.",
    b"\x28\xb5\x2f\xfd": "compressed with zstd. Unpack it first.",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive. Unpack it first.",
    b"Rar!": "a RAR archive. Unpack it first.",
}
# By the end of the file's name; these formats begin with nothing of their own.
ENDINGS = {
    ".onnx": f"an ONNX file, a network with its weights under other names. Weights alone, {FITS}",
    ".pdparams": "a file of PaddlePaddle, whose linear layers are stored the other way round; "
    f"{FITS}",
    ".pb": f"a graph of TensorFlow. {TENSORFLOW}",
    ".msgpack": f"a file of Flax. {TENSORFLOW}",
    ".caffemodel": f"a file of Caffe, whose networks expect other images (BGR, 0 to 255); {FITS}",
}
TABLE_END = bytes.fromhex("57fb808b247547db")  # of TensorFlow's .index files


def check_kind(f: BinaryIO) -> None:
    """Raise WeightsError where the open file is something else than weights that can be read.
    Leaves it at its beginning."""
    kind = _kind(f, Path(f.name))
    f.seek(0)
    if kind:
        raise WeightsError(f"is {kind}")


def _kind(f: BinaryIO, path: Path) -> str | None:
    start = f.read(1024)
    if not start:
        return f"empty. {AGAIN}"
    for beginning, kind in BEGINNINGS.items():
        if start.startswith(beginning):
            return kind
    if start.startswith(b"PK"):
        return _kind_of_zip(f)
    text = _as_text(start)
    if text is not None:
        return _kind_of_text(text)
    for ending, kind in ENDINGS.items():
        if path.name.endswith(ending):
            return kind
    if start[4:8] == b"TFL3":
        return f"a file of TensorFlow Lite. {TENSORFLOW}"
    if start[257:262] == b"ustar":
        return "a tar archive. Unpack it first."
    if ".ckpt.data-" in path.name or _ends_with(f, TABLE_END):
        return f"a part of a checkpoint of TensorFlow. {TENSORFLOW}"
    return None


def _as_text(start: bytes) -> str | None:
    """The beginning of a file as text, None where it is none."""
    if any(byte < 9 or 13 < byte < 32 for byte in start):
        return None
    try:
        return start.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        if error.start <= len(start) - 4:
            return None
        return start[: error.start].decode("utf-8-sig").strip()  # its last letter was cut in two


def _kind_of_text(text: str) -> str | None:
    pages = ("<!doctype html", "<html", "<head", "<?xml", "<script", "<!--")
    if text[:200].lower().startswith(pages):
        what = "a web page was saved in their place (a login, a warning, an error)"
        return f"an HTML page, not weights: {what}. {AGAIN}"
    if text.startswith("{") and '"weight_map"' in text:
        return "the index of weights in several files (*.index.json), not weights."
    if _is_pickle(text):
        return None
    return f"text, not weights: it begins with {text[:40]!r}. {AGAIN}"


def _is_pickle(text: str) -> bool:
    """Whether it may be a pickle of the oldest kind, which is written in letters."""
    return text.startswith(("(d", "(i", "c")) and "\n" in text


def _kind_of_zip(f: BinaryIO) -> str | None:
    f.seek(0)
    try:
        with zipfile.ZipFile(f) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None  # the reader says that it is truncated
    parts = {name.rpartition("/")[2] for name in names}
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        load = IN_PYTORCH.format(load="torch.jit.load(FILE).state_dict()")
        return f"a TorchScript file, which holds code beside its weights. {load}"
    if any(name.endswith("/models/model.json") for name in names):
        load = IN_PYTORCH.format(load="torch.export.load(FILE).state_dict")
        return f"a program of torch.export, which holds code beside its weights. {load}"
    if "data.pkl" in parts:
        return None
    if "model.weights.h5" in parts:
        return f"a .keras file. {KERAS}"
    if names and all(name.endswith(".npy") for name in names):
        return "a .npz file of NumPy. Save its arrays as .safetensors, or with jittor.save."
    inside = [
        name for name in names if name.endswith((".pth", ".pt", ".pkl", ".safetensors", ".bin"))
    ]
    if inside:
        return f"a zip file that holds {inside[0]}. Unpack it first."
    return None


def _ends_with(f: BinaryIO, ending: bytes) -> bool:
    size = f.seek(0, os.SEEK_END)
    f.seek(max(0, size - len(ending)))
    return f.read() == ending
