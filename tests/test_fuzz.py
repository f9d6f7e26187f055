"""Whatever reads foreign files gets thousands of broken ones: a clear error or a result, never a
traceback, a hang, or a changed file. 2,600 cases."""

import hashlib
import io
import json
import pickle
import shutil
import string

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_storage import TENSORS, WRITERS

from images.folders import DataError, read_split
from images.preprocess import open_rgb, upright_size
from runs.folder import resumed
from settings.config import Config, ConfigError
from storage.checkpoint import WeightsError, load_checkpoint, load_metadata, save_checkpoint
from storage.pretrained import read_pretrained


def cases(count):
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


@st.composite
def damage(draw):
    """A function that damages bytes: overwrites, cuts, inserts, repeats."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from("sssidrc"), st.integers(0, 10**6), st.binary(min_size=1, max_size=8)
            ),
            min_size=1,
            max_size=5,
        )
    )

    def apply(data: bytes) -> bytes:
        data = bytearray(data)
        for kind, position, payload in edits:
            at = position % (len(data) + 1)
            if kind == "s":
                data[at : at + len(payload)] = payload
            elif kind == "i":
                data[at:at] = payload
            elif kind == "d":
                del data[at : at + len(payload)]
            elif kind == "r":
                data[at:at] = data[at : at + 100]
            else:
                del data[at:]
        return bytes(data)

    return apply


def unchanged(path, function, *errors):
    """Call `function`; one of `errors` may come, and names the file, whose bytes stay the same."""
    before = hashlib.sha256(path.read_bytes()).digest()
    try:
        function()
    except errors as error:
        assert path.name in str(error) and "\n" not in str(error).strip()
    assert hashlib.sha256(path.read_bytes()).digest() == before


def encoded(format, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


IMAGES = [
    encoded("JPEG"),
    encoded("JPEG", progressive=True),
    encoded("JPEG", "CMYK"),
    encoded("PNG"),
    encoded("PNG", "P"),
    encoded("GIF", "P"),
    encoded("BMP"),
    encoded("TIFF"),
    encoded("WEBP"),
]


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on broken TIFFs
@cases(800)
@given(st.sampled_from(IMAGES), damage())
def test_images(tmp_path_factory, data, apply):
    path = tmp_path_factory.getbasetemp() / "fuzzed-image"
    path.write_bytes(apply(data))
    unchanged(path, lambda: open_rgb(path), DataError)
    unchanged(path, lambda: upright_size(path), DataError)


@cases(800)
@given(st.sampled_from(sorted(WRITERS)), damage())
def test_pretrained_files(tmp_path_factory, name, apply):
    path = tmp_path_factory.getbasetemp() / "fuzzed-weights"
    path.write_bytes(apply(WRITERS[name](TENSORS)))
    unchanged(path, lambda: read_pretrained(path), WeightsError)


@cases(500)
@given(damage())
def test_checkpoints(tmp_path_factory, apply):
    path, good = (
        tmp_path_factory.getbasetemp() / "fuzzed-checkpoint",
        tmp_path_factory.getbasetemp() / "good",
    )
    if not good.exists():
        save_checkpoint(good, TENSORS, {"arch": "vgg16", "tasks": []})
    path.write_bytes(apply(good.read_bytes()))
    unchanged(path, lambda: load_checkpoint(path), WeightsError)
    unchanged(path, lambda: load_metadata(path), WeightsError)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "auto", "cubs", "x" * 50]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["config", "finished", "task_list", "seed", "device", "arch"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@cases(300)
@given(anything, damage(), st.booleans(), st.sampled_from(sorted(Config().asdict())))
def test_results_of_earlier_runs(tmp_path_factory, value, apply, bytewise, name):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-run"
    folder.mkdir(exist_ok=True)
    path = folder / "results.json"
    good = {"config": Config().asdict(), "finished": False}
    path.write_bytes(
        apply(json.dumps(good).encode())
        if bytewise
        else json.dumps({"config": good["config"] | {name: value}, "finished": False}).encode()
    )
    unchanged(path, lambda: resumed(Config(output_dir=str(folder)), {}), ConfigError)


names = st.text(
    st.sampled_from(string.ascii_letters + " .%é鸟'\"$-"), min_size=1, max_size=12
).filter(lambda name: name.strip(".") and name == name.strip())


@cases(200)
@given(
    st.dictionaries(
        names,
        st.dictionaries(names, st.sampled_from([b"", IMAGES[0], "folder"]), max_size=3),
        max_size=3,
    ),
    st.dictionaries(
        names,
        st.dictionaries(names, st.sampled_from([b"", IMAGES[0], "folder"]), max_size=3),
        max_size=3,
    ),
    st.booleans(),
)
def test_class_folders(tmp_path_factory, train, test, same):
    root = tmp_path_factory.getbasetemp() / "fuzzed-folders"
    shutil.rmtree(root, ignore_errors=True)
    for split, classes in (("train", train), ("test", train if same else test)):
        (root / "x" / split).mkdir(parents=True)
        for name, files in classes.items():
            (root / "x" / split / name).mkdir(exist_ok=True)
            for file, content in files.items():
                path = root / "x" / split / name / file
                path.mkdir() if content == "folder" else path.write_bytes(content)
    before = sorted(root.rglob("*"))
    try:
        split = read_split("x", root, "train")
        visible = {name for name in train if not name.startswith(".")}
        files = [file for name in visible for file in train[name] if not file.startswith(".")]
        # nothing is skipped
        assert set(split.classes) == visible and len(split.paths) == len(files)
    except DataError as error:
        assert str(root) in str(error)
    assert sorted(root.rglob("*")) == before


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_loader_executes_a_pickle(tmp_path):
    """The same hostile pickle under every name that the program reads."""
    trap = tmp_path / "trap"
    evil = pickle.dumps(Attack(trap))
    for name, load, error in (
        ("w.pth", read_pretrained, WeightsError),
        ("w.pkl", read_pretrained, WeightsError),
        ("packnet.safetensors", load_checkpoint, WeightsError),
        ("state.safetensors", load_metadata, WeightsError),
        ("x.jpg", open_rgb, DataError),
        (
            "results.json",
            lambda path: resumed(Config(output_dir=str(path.parent)), {}),
            ConfigError,
        ),
    ):
        (tmp_path / name).write_bytes(evil)
        with pytest.raises(error, match=name):
            load(tmp_path / name)
    assert not trap.exists()
