"""Pretrained files and checkpoints: what is read equals what was written; what is broken or hostile
is refused."""

import collections
import hashlib
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from conftest import jt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import networks
from runs.network import base_network
from settings.config import Config
from storage.checkpoint import WeightsError, load_checkpoint, save_checkpoint
from storage.downloads import download
from storage.pretrained import read_pretrained


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


TENSORS = {
    "features.0.weight": normal(4, 3, 3, 3),
    "features.0.bias": normal(4, seed=1),
    "classifier.6.weight": normal(5, 7, seed=2),
}


# ---- files as torch.save and jittor.save write them, without either


class Global:
    """Pickles as a reference to module.name."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class TorchPickler(pickle._Pickler):
    """Writes the opcodes of torch.save: storages as persistent ids, tensors as calls of
    _rebuild_tensor_v2."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_global_reference(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    dispatch[Global] = save_global_reference

    def save_array(self, array):
        self.save(Global("torch._utils", "_rebuild_tensor_v2"))
        self.write(pickle.MARK)
        self.save(
            ("storage", Global("torch", "FloatStorage"), self.key(array), "cpu", array.size)
            + self.extra
        )
        self.write(pickle.BINPERSID)
        strides = tuple(s // array.itemsize for s in array.strides)
        for value in (0, array.shape, strides, False, collections.OrderedDict()):
            self.save(value)
        self.write(pickle.TUPLE + pickle.REDUCE)

    dispatch[np.ndarray] = save_array

    def key(self, array):
        return self.keys.setdefault(id(array), str(len(self.keys)))


def torch_pickle(tensors, extra):
    buffer = io.BytesIO()
    pickler = TorchPickler(buffer, 2)
    pickler.keys, pickler.extra = {}, extra
    pickler.dump(collections.OrderedDict(tensors))
    return buffer.getvalue()


def torch_zip(tensors):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", torch_pickle(tensors, ()))
        for key, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def torch_legacy(tensors):
    parts = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({"little_endian": True}, 2),
        torch_pickle(tensors, (None,)),
        pickle.dumps([str(i) for i in range(len(tensors))], 2),
    ]
    return b"".join(parts + [struct.pack("<q", a.size) + a.tobytes() for a in tensors.values()])


def jittor_pkl(tensors):
    data = pickle.dumps(tensors, 4)
    return data + hashlib.sha1(data).digest() + b"HCAJSLHD"


WRITERS = {
    "zip.pth": torch_zip,
    "legacy.pth": torch_legacy,
    "jittor.pkl": jittor_pkl,
    "bare.pkl": lambda tensors: pickle.dumps(tensors, 2),
    "x.safetensors": safetensors.numpy.save,
}


def same(one, two):
    return one.keys() == two.keys() and all(
        one[n].dtype == two[n].dtype and (one[n] == two[n]).all() for n in one
    )


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(WRITERS[name](TENSORS))
    assert same(read_pretrained(tmp_path / name), TENSORS)


def test_jittors_own_save_is_read(tmp_path):
    layer = jt.nn.Linear(3, 2)
    layer.save(str(tmp_path / "x.pkl"))
    assert same(read_pretrained(tmp_path / "x.pkl"), layer.state_dict(to="numpy"))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_torchs_own_save_is_read(tmp_path, new):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state = collections.OrderedDict(
        (name, torch.from_numpy(array)) for name, array in TENSORS.items()
    )
    state["half"] = torch.ones(3, dtype=torch.float16)
    state["buffer"] = torch.arange(6)
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    got = read_pretrained(tmp_path / "x.pth")
    assert got["half"].dtype == np.float32 and got.pop("half").tolist() == [1, 1, 1]
    assert got.pop("buffer").tolist() == [0, 1, 2, 3, 4, 5] and same(got, TENSORS)


# ---- hostile and broken files


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrap", ["zip", "legacy", "jittor", "bare"])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, wrap):
    trap = tmp_path / "trap"
    evil = pickle.dumps({"features.0.weight": Evil(trap)}, 2)
    buffer = io.BytesIO()
    if wrap == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", evil)
    elif wrap == "legacy":
        buffer.write(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + evil)
    else:
        buffer.write(
            evil + (hashlib.sha1(evil).digest() + b"HCAJSLHD" if wrap == "jittor" else b"")
        )
    (tmp_path / "evil").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match=r"evil: refused: asks for (posix|os).system"):
        read_pretrained(tmp_path / "evil")
    assert not trap.exists()
    pickle.loads(evil)  # the trap does work
    assert trap.exists()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fraction", [0.3, 0.98])
def test_truncated_files_are_refused(tmp_path, name, fraction):
    data = WRITERS[name](TENSORS)
    (tmp_path / name).write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(WeightsError, match=name):
        read_pretrained(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="nowhere.pth"):
        read_pretrained(tmp_path / "nowhere.pth")


def test_a_download_that_fails_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("storage.downloads.JITTOR_URL", "http://127.0.0.1:9/")
    with pytest.raises(WeightsError, match="/resnet50.pkl: .* --pretrained") as error:
        download("resnet50.pkl", tmp_path / "packnet-jittor")
    assert "vgg16" not in str(error.value)
    assert not list((tmp_path / "packnet-jittor").iterdir())


# ---- pretrained weights into the network


def pretrained_tensors(arch="vgg-slim", classes=5):
    """The same whatever was drawn before: which tests a process has run hangs on chance."""
    jt.set_global_seed(0)
    trunk = networks.build(arch).trunk
    tensors = {name: parameter.numpy() for name, parameter in trunk.state_dict().items()}
    return tensors | {
        "classifier.6.weight": normal(classes, trunk.num_features),
        "classifier.6.bias": normal(classes, seed=1),
    }


def test_a_base_task_that_trains_from_pretrained_weights_has_a_head_of_its_own(tmp_path):
    tensors = pretrained_tensors()
    (tmp_path / "x.pth").write_bytes(torch_zip(tensors))
    common = dict(arch="vgg-slim", image_size=48, base_task="birds", num_epochs_base=3)
    net = base_network(Config(**common, pretrained=str(tmp_path / "x.pth")), classes=7)
    state = net.state_dict(to="numpy")
    assert {name for name in state if name.startswith("heads.")} == {
        "heads.birds.weight",
        "heads.birds.bias",
    }
    assert state["heads.birds.weight"].shape == (7, net.num_features)
    for name, value in tensors.items():
        if "classifier.6" not in name:
            assert np.array_equal(state[f"trunk.{name}"], value)
    from_scratch = base_network(Config(**common), classes=7).state_dict(to="numpy")
    name = "features.0.weight"
    assert not np.array_equal(from_scratch[f"trunk.{name}"], tensors[name])


def test_published_weights_are_looked_for_where_they_are_asked_for(tmp_path, monkeypatch):
    """By --pretrained published, and without --pretrained, but not for a base task that trains from
    scratch."""
    asked = []

    def published(name, folder):
        asked.append(name)
        raise WeightsError("not here")

    monkeypatch.setattr("runs.network.published_weights", published)
    common = dict(arch="squeezenet1_1", image_size=64, base_task="birds")
    for more in (dict(), dict(pretrained="published"),
                 dict(pretrained="published", num_epochs_base=3)):
        with pytest.raises(WeightsError, match="not here"):
            base_network(Config(**common, **more), classes=7)
    base_network(Config(**common, num_epochs_base=3), classes=7)
    assert asked == ["squeezenet1_1.pkl"] * 3


def test_the_last_layer_becomes_the_head_of_the_base_task(tmp_path):
    tensors = pretrained_tensors()
    (tmp_path / "x.pth").write_bytes(torch_zip(tensors))
    net = networks.build("vgg-slim")
    networks.load_pretrained(net, tmp_path / "x.pth", head="imagenet")
    state = net.state_dict(to="numpy")
    assert (state["heads.imagenet.weight"] == tensors["classifier.6.weight"]).all()
    assert all(
        (state[f"trunk.{name}"] == value).all()
        for name, value in tensors.items()
        if "classifier.6" not in name
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("features.3.weight"), "features.3.weight is missing"),
        (
            lambda t: t.update({"features.99.weight": np.ones(3, np.float32)}),
            "features.99.weight is not part",
        ),
        (
            lambda t: t.update({"features.0.bias": np.ones(3, np.float32)}),
            r"features.0.bias is \[3\], not \[16\]",
        ),
        (lambda t: t.pop("classifier.6.weight"), "holds no classifier.6.weight"),
    ],
)
def test_weights_of_another_network_are_refused_with_what_differs(tmp_path, change, message):
    tensors = pretrained_tensors()
    change(tensors)
    (tmp_path / "other.pth").write_bytes(torch_zip(tensors))
    with pytest.raises(WeightsError, match=f"other.pth.*{message}"):
        networks.load_pretrained(
            networks.build("vgg-slim"), tmp_path / "other.pth", head="imagenet"
        )


def test_vgg_gives_torchs_logits():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = networks.build("vgg-slim")
    net.add_head("a", 5)
    net.select("a")
    state = {name: torch.from_numpy(value) for name, value in net.state_dict(to="numpy").items()}
    x = normal(2, 3, 48, 48)
    y, f = torch.from_numpy(x), torch.nn.functional
    for layer in networks.ARCHITECTURES["vgg-slim"].convolutions:
        if layer == "M":
            y = f.max_pool2d(y, 2)
        else:
            name = next(
                n
                for n in state
                if n.startswith("trunk.features") and n.endswith("weight") and n in state
            )
            y = f.relu(
                f.conv2d(y, state.pop(name), state.pop(name.replace("weight", "bias")), padding=1)
            )
    y = y.flatten(1)
    for name in ("trunk.classifier.0", "trunk.classifier.3"):
        y = f.relu(f.linear(y, state[f"{name}.weight"], state[f"{name}.bias"]))
    y = f.linear(y, state["heads.a.weight"], state["heads.a.bias"])
    for module in net.modules():
        module.is_train = False
    assert np.allclose(net(jt.array(x)).numpy(), y.numpy(), atol=1e-4)


# ---- the checkpoint


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path, metadata = (
        tmp_path / "x.safetensors",
        {"arch": "vgg16", "tasks": [{"name": "鸟", "top1": 12.5}]},
    )
    tensors = TENSORS | {"owner": np.arange(9, dtype=np.uint8).reshape(3, 3) % 5}
    save_checkpoint(path, tensors, metadata)
    got, meta = load_checkpoint(path)
    assert same(got, tensors) and meta == metadata
    assert os.listdir(tmp_path) == ["x.safetensors"] and path.stat().st_mode & 0o777 == 0o666 & ~(
        os.umask(0o022) or 0o022
    )


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, TENSORS, {"n": 1})
    monkeypatch.setattr(
        "os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError):
        save_checkpoint(path, TENSORS, {"n": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)[1] == {"n": 1} and os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, pickle.dumps({"a": 1})], ids=["empty", "text", "pickle"]
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="x.safetensors"):
        load_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        load_checkpoint(tmp_path / "y.safetensors")


@settings(
    max_examples=500,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 10**9))
def test_one_flipped_bit_is_noticed(tmp_path, position):
    path = tmp_path / "x.safetensors"
    if not path.exists():
        save_checkpoint(path, TENSORS, {"tasks": ["a", "b"], "top1": 12.5})
    data = bytearray(path.read_bytes())
    data[position // 8 % len(data)] ^= 1 << position % 8
    (tmp_path / "flipped").write_bytes(data)
    with pytest.raises(WeightsError, match="flipped"):
        load_checkpoint(tmp_path / "flipped")


@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 10**9))
def test_a_truncated_checkpoint_is_noticed(tmp_path, length):
    path = tmp_path / "x.safetensors"
    if not path.exists():
        save_checkpoint(path, TENSORS, {"n": 1})
    data = path.read_bytes()
    (tmp_path / "cut").write_bytes(data[: length % len(data)])
    with pytest.raises(WeightsError, match="cut"):
        load_checkpoint(tmp_path / "cut")


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, TENSORS, {"n": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_another_format_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.checkpoint.CHECKPOINT_FORMAT", "packnet-jittor 0")
    save_checkpoint(tmp_path / "old", TENSORS, {"n": 1})
    monkeypatch.undo()
    with pytest.raises(
        WeightsError, match="its format is 'packnet-jittor 0', not 'packnet-jittor 3'"
    ):
        load_checkpoint(tmp_path / "old")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file(TENSORS, tmp_path / "x.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("largest, bits", [(1, 1), (2, 2), (3, 2), (4, 3), (255, 8)])
def test_owner_maps_take_as_few_bits_as_they_need(largest, bits):
    from storage.packed import pack_owners, unpack_owners

    owner = np.random.default_rng(0).integers(0, largest + 1, (7, 3, 3, 3)).astype(np.uint8)
    owner.flat[0] = largest
    packed = pack_owners(owner, largest)
    assert packed.shape == (bits, -(-owner.size // 8)) and packed.dtype == np.uint8
    again = unpack_owners(packed, owner.shape)
    assert again.dtype == np.uint8 and np.array_equal(again, owner)
    with pytest.raises(ValueError, match="does not fit"):
        unpack_owners(packed, (8, 3, 3, 4))


def test_the_bytes_follow_from_the_content_alone(tmp_path):
    save_checkpoint(tmp_path / "one", TENSORS, {"a": 1})
    save_checkpoint(tmp_path / "two", dict(reversed(TENSORS.items())), {"a": 1})
    assert len(TENSORS) > 1 and (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_jittor_file_with_a_flipped_bit_is_refused(tmp_path):
    """In the numbers, where nothing but the checksum can notice."""
    data = bytearray(jittor_pkl(TENSORS))
    number = next(iter(TENSORS.values())).tobytes()
    data[data.index(number)] ^= 1
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(WeightsError, match="x.pkl: damaged: its checksum does not match"):
        read_pretrained(tmp_path / "x.pkl")
