"""--pretrained: weight files in the forms that people have them are read, what is no weight file
is called by its name, and no file can run code or claim more than it holds."""

import argparse
import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_storage import TENSORS, Global, TorchPickler, pretrained_tensors, torch_legacy, torch_zip

import networks
import storage.downloads
from storage.checkpoint import WeightsError
from storage.downloads import cached, published_weights
from storage.fitting import Wanted, fitted
from storage.likeness import likeness
from storage.pickles import read_objects
from storage.pretrained import read_pretrained
from storage.torch_file import write_torch_file


def same(one, two):
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype and np.array_equal(one[name], two[name]) for name in one
    )


def torch_state():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return torch, {name: torch.from_numpy(array) for name, array in TENSORS.items()}


# ---- how tensors lie in a file


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_strided_and_expanded_tensors_are_read(tmp_path, new):
    torch, state = torch_state()
    state["features.0.weight"] = state["features.0.weight"].to(memory_format=torch.channels_last)
    state["classifier.6.weight"] = state["classifier.6.weight"].t().contiguous().t()
    state["one.weight"] = torch.tensor([2.5]).expand(3, 4)
    state["some.weight"] = torch.arange(20.0)[3::4]
    state["none.weight"] = torch.zeros(0, 3)
    assert not any(
        state[name].is_contiguous() for name in ("features.0.weight", "classifier.6.weight")
    )
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    got = read_pretrained(tmp_path / "x.pth")
    assert all(array.flags.c_contiguous for array in got.values())
    assert same(got, {name: tensor.contiguous().numpy() for name, tensor in state.items()})


@pytest.mark.parametrize("container", ["zip.pth", "legacy.pth", "safetensors"])
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_other_number_types_become_float32(tmp_path, container, kind):
    torch, state = torch_state()
    state = {name: tensor.to(getattr(torch, kind)) for name, tensor in state.items()}
    path = tmp_path / f"x.{container}"
    if container == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=container == "zip.pth")
    assert same(
        read_pretrained(path), {name: tensor.float().numpy() for name, tensor in state.items()}
    )


def test_numbers_of_eight_bits_are_refused_by_name(tmp_path):
    torch, state = torch_state()
    from safetensors.torch import save_file

    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}
    torch.save(state, tmp_path / "x.pth")
    save_file(state, tmp_path / "x.safetensors")
    for name, kind in (("x.pth", "float8_e4m3fn"), ("x.safetensors", "F8_E4M3")):
        with pytest.raises(
            WeightsError,
            match=f"{name}: holds numbers of .*{kind}, which are not read here. Save it as float32",
        ):
            read_pretrained(tmp_path / name)


def test_a_parameter_with_an_attribute_and_a_subclass_are_tensors(tmp_path):
    torch, state = torch_state()

    class Named(torch.Tensor):
        pass

    parameter = torch.nn.Parameter(state["features.0.weight"])
    parameter.note = "mine"
    state["features.0.weight"] = parameter
    state["features.0.bias"] = state["features.0.bias"].as_subclass(torch.nn.parameter.Buffer)
    torch.save(state, tmp_path / "x.pth")
    assert same(read_pretrained(tmp_path / "x.pth"), TENSORS)


# ---- what is around the weights


def wrapped(torch, state):
    """{name: content of a file}"""
    optimizer = {
        "state": {0: {"momentum_buffer": torch.ones(3)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    ema = {name: tensor + 1 for name, tensor in state.items()}
    return {
        "state_dict": {"epoch": 90, "arch": "vgg16", "state_dict": state, "best_acc1": 71.5},
        "imagenet example": {
            "epoch": 90,
            "state_dict": parallel,
            "best_acc1": torch.tensor(71.5),
            "optimizer": optimizer,
        },
        "model": {"model": state, "optimizer": optimizer, "args": argparse.Namespace(lr=0.1)},
        "model and ema": {"state_dict_ema": ema, "model": state},
        "only ema": {"model_ema": state, "epoch": 3},
        "a name of one's own": {"vgg": state, "hyper_parameters": {"weights": torch.ones(3)}},
        "twice": {"model": {"state_dict": state}},
        "lightning": {
            "epoch": 1,
            "state_dict": state,
            "hyper_parameters": {"out": Path("x")},
            "loops": collections.OrderedDict(),
            "callbacks": {"ModelCheckpoint": {"best": torch.tensor(1.0)}},
        },
        "half a wrapper": {**state, "epoch": 90, "date": np.float64(3)},
        "module somewhere": {
            name.replace("features.", "features.module."): tensor for name, tensor in state.items()
        },
        "compiled": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
        "parameters": {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
    }


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_weights_are_found_in_what_is_around_them(tmp_path, new):
    torch, state = torch_state()
    for name, content in wrapped(torch, state).items():
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
        assert same(read_pretrained(tmp_path / "x.pth"), TENSORS), name


def test_a_layer_that_is_called_module_keeps_its_name_where_two_would_be_one(tmp_path):
    tensors = {"module.a.weight": np.ones(3, np.float32), "a.weight": np.zeros(3, np.float32)}
    (tmp_path / "x.pth").write_bytes(torch_zip(tensors))
    assert same(read_pretrained(tmp_path / "x.pth"), tensors)


def test_a_whole_module_gives_its_state(tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False))
    )
    net.register_buffer("not_saved", torch.ones(3), persistent=False)
    net.activation = nn.functional.relu
    expected = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    for content in (net, nn.DataParallel(net), {"model": net, "epoch": 3}):
        torch.save(content, tmp_path / "x.pt")
        assert same(read_pretrained(tmp_path / "x.pt"), expected)


def test_what_holds_no_weights_or_several_says_so(tmp_path):
    torch, state = torch_state()
    two = {"teacher": state, "student": state}
    for content, message in (
        (two, "holds several dictionaries of weights: teacher, student. Save the one"),
        (
            {"epoch": 3, "arch": "x"},
            r"none of its entries is an array of numbers \(epoch, arch, ...\)",
        ),
        ([1, 2], "holds no dictionary of weights"),
        ({}, "holds no dictionary of weights"),
    ):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=f"x.pth: {message}"):
            read_pretrained(tmp_path / "x.pth")


# ---- safetensors, and our own files


def test_safetensors_are_read_whatever_their_name(tmp_path):
    from safetensors.numpy import save_file

    save_file(TENSORS, tmp_path / "model.bin", {"format": "pt"})
    assert same(read_pretrained(tmp_path / "model.bin"), TENSORS)


def test_truncated_safetensors_are_called_so(tmp_path):
    from safetensors.numpy import save_file

    save_file(TENSORS, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    for length in (20, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(
            WeightsError, match=f"cut: a truncated safetensors file: {length} bytes"
        ):
            read_pretrained(tmp_path / "cut")


def test_a_folder_names_what_is_in_it(tmp_path):
    with pytest.raises(WeightsError, match="is a folder without a file of weights"):
        read_pretrained(tmp_path)
    (tmp_path / "distributed").mkdir()
    (tmp_path / "distributed/.metadata").touch()
    with pytest.raises(WeightsError, match="a folder of torch.distributed.checkpoint. In PyTorch"):
        read_pretrained(tmp_path / "distributed")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(WeightsError, match="is a folder. Name the file in it: model.safetensors"):
        read_pretrained(tmp_path)


# ---- names


def load(path, arch="vgg-slim"):
    net = networks.build(arch)
    networks.load_pretrained(net, path, "imagenet")
    return net.state_dict(to="numpy")


def assert_loaded(state, tensors, last="classifier.6"):
    for name, array in tensors.items():
        ours = (
            f"heads.imagenet{name.removeprefix(last)}" if name.startswith(last) else f"trunk.{name}"
        )
        assert np.array_equal(state[ours], array), name


def timms_vgg(tensors, pooled=6, hidden=128):
    """VGG as timm writes it: the linear layers of the trunk as convolutions."""

    def renamed(name, array):
        if name == "classifier.0.weight":
            array = array.reshape(hidden, -1, pooled, pooled)
        elif name == "classifier.3.weight":
            array = array.reshape(hidden, hidden, 1, 1)
        for ours, theirs in (
            ("classifier.0", "pre_logits.fc1"),
            ("classifier.3", "pre_logits.fc2"),
            ("classifier.6", "head.fc"),
        ):
            name = name.replace(ours, theirs)
        return name, array

    return dict(renamed(name, array) for name, array in tensors.items())


NAMES = {
    "timm": timms_vgg,
    "lightning": lambda tensors: {f"model.{name}": array for name, array in tensors.items()},
    "a backbone": lambda tensors: {
        name.replace("classifier.6", "head.fc")
        if "classifier.6" in name
        else f"backbone.{name}": array
        for name, array in tensors.items()
    },
}


@pytest.mark.parametrize("names", NAMES)
def test_the_same_weights_under_other_names_are_the_same_network(tmp_path, names):
    from safetensors.numpy import save_file

    tensors = pretrained_tensors()
    save_file(NAMES[names](tensors), tmp_path / "x.safetensors")
    assert_loaded(load(tmp_path / "x.safetensors"), tensors)


@pytest.mark.parametrize(
    "around",
    [
        lambda tensors: {"n_averaged": np.array(3)}
        | {f"module.{name}": array for name, array in tensors.items()},
        lambda tensors: {"criterion.weight": np.ones(5, np.float32), "top1.hits": np.zeros((1, 2))}
        | {f"model.{name}": array for name, array in tensors.items()},
    ],
    ids=["PyTorch's average", "Lightning's loss and metric"],
)
def test_what_lies_beside_the_network_is_passed_over(tmp_path, around):
    tensors = pretrained_tensors()
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(around(tensors)))
    assert_loaded(load(tmp_path / "x.pkl"), tensors)


def test_more_layers_of_the_network_itself_are_not(tmp_path):
    tensors = pretrained_tensors() | {"features.99.weight": np.ones((2, 2), np.float32)}
    for prefix in ("", "model."):
        content = {prefix + name: array for name, array in tensors.items()}
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(WeightsError, match="features.99.weight is not part of the network"):
            load(tmp_path / "x.pkl")


@pytest.mark.parametrize("name", ["features.3.weight", "classifier.6.bias"])
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda array: array.astype(np.int8), "is of int8, not of floating-point numbers"),
        (lambda array: array > 0, "is of bool, not of floating-point numbers"),
        (lambda array: array * np.float32("nan"), "holds NaN or infinite numbers"),
        (lambda array: array + np.float32("inf"), "holds NaN or infinite numbers"),
    ],
)
def test_what_no_network_computes_with_is_refused(tmp_path, name, change, message):
    """A quantised file, a mask, a training that has diverged."""
    tensors = pretrained_tensors()
    tensors[name] = change(tensors[name])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(tensors))
    ours = name.replace("classifier.6", "heads.imagenet").replace("features", "trunk.features")
    with pytest.raises(WeightsError, match=f"x.pkl: {ours} {message}"):
        load(tmp_path / "x.pkl")


def hugging_faces_resnet(torch, blocks, width, classes):
    """In plain PyTorch, with the names that transformers gives it; `width`: of the first stage's
    3x3 convolutions."""
    nn = torch.nn

    class Layer(nn.Module):
        def __init__(self, inputs, outputs, kernel, stride=1):
            super().__init__()
            self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            self.normalization = nn.BatchNorm2d(outputs)

        def forward(self, x):
            return self.normalization(self.convolution(x))

    class Block(nn.Module):
        def __init__(self, inputs, inner, outputs, stride):
            super().__init__()
            same = inputs == outputs and stride == 1
            self.shortcut = nn.Identity() if same else Layer(inputs, outputs, 1, stride)
            self.layer = nn.ModuleList(
                [Layer(inputs, inner, 1), Layer(inner, inner, 3, stride), Layer(inner, outputs, 1)]
            )

        def forward(self, x):
            y = self.layer[0](x).relu()
            y = self.layer[1](y).relu()
            return (self.layer[2](y) + self.shortcut(x)).relu()

    def stage(number, count):
        before = 64 if number == 0 else 128 << number
        inner, outputs = width << number, 256 << number
        strides = [2 if number else 1] + [1] * (count - 1)
        layers = [
            Block(before if row == 0 else outputs, inner, outputs, stride)
            for row, stride in enumerate(strides)
        ]
        return nn.ModuleDict({"layers": nn.Sequential(*layers)})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            stages = nn.ModuleList(stage(number, count) for number, count in enumerate(blocks))
            embedder = nn.ModuleDict({"embedder": Layer(3, 64, 7, 2)})
            encoder = nn.ModuleDict({"stages": stages})
            self.resnet = nn.ModuleDict({"embedder": embedder, "encoder": encoder})
            self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(2048, classes))

        def forward(self, x):
            x = self.resnet["embedder"]["embedder"](x).relu()
            x = nn.functional.max_pool2d(x, 3, 2, 1)
            for stage in self.resnet["encoder"]["stages"]:
                x = stage["layers"](x)
            return self.classifier(x.mean((2, 3)))

    return Net()


def timms_vit(torch, shape, classes):
    """In plain PyTorch, with the names that timm gives it."""
    nn, width = torch.nn, shape.width

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
            self.attn = nn.ModuleDict(
                {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
            )
            self.mlp = nn.ModuleDict(
                {"fc1": nn.Linear(width, shape.hidden), "fc2": nn.Linear(shape.hidden, width)}
            )

        def forward(self, x):
            parts = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
            heads = [part.unflatten(-1, (shape.heads, -1)).transpose(1, 2) for part in parts]
            seen = nn.functional.scaled_dot_product_attention(*heads)
            x = x + self.attn["proj"](seen.transpose(1, 2).flatten(2))
            return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            tokens = (shape.image_size // shape.patch) ** 2 + 1
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
            self.patch_embed = nn.ModuleDict(
                {"proj": nn.Conv2d(3, width, shape.patch, shape.patch)}
            )
            self.blocks = nn.Sequential(*(Block() for _ in range(shape.layers)))
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.head = nn.Linear(width, classes)

        def forward(self, x):
            x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
            return self.head(self.norm(self.blocks(x))[:, 0])

    return Net()


OTHERS_NETWORKS = {
    "resnet-slim": lambda torch: hugging_faces_resnet(torch, (1, 1, 1, 1), 16, 5),
    "resnet50": lambda torch: hugging_faces_resnet(torch, (3, 4, 6, 3), 64, 5),
    "vit-slim": lambda torch: timms_vit(torch, networks.ARCHITECTURES["vit-slim"], 5),
    "vit_b_16": lambda torch: timms_vit(torch, networks.ARCHITECTURES["vit_b_16"], 5),
}
LARGE = ("resnet50", "vit_b_16")


@pytest.mark.parametrize(
    "arch",
    [pytest.param(arch, marks=[pytest.mark.slow] * (arch in LARGE)) for arch in OTHERS_NETWORKS],
)
def test_the_networks_of_others_give_their_logits(tmp_path, arch):
    """Every number of them at random, also those that training begins at 0 or 1."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    theirs = OTHERS_NETWORKS[arch](torch).eval()
    with torch.no_grad():
        for tensor in theirs.state_dict().values():
            if tensor.ndim != 2 and tensor.ndim != 4:
                tensor.add_((torch.rand(tensor.shape) - 0.5).to(tensor.dtype))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    size = getattr(networks.ARCHITECTURES[arch], "image_size", 64)
    images = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    net = networks.build(arch)
    networks.load_pretrained(net, tmp_path / "model.safetensors", "imagenet")
    net.select("imagenet")
    net.eval()
    ours = net(networks.jt.array(images)).numpy()
    with torch.no_grad():
        logits = theirs(torch.from_numpy(images)).numpy()
    between = np.abs(logits[0] - logits[1]).max()
    assert between > 1e-3 and np.abs(ours - logits).max() < 1e-2 * between


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda state: state.pop("cls_token"), "class_token is missing"),  # a mean over the patches
        (lambda state: state.pop("blocks.0.attn.qkv.bias"), "in_proj.bias is missing"),
        (
            lambda state: state.update({"blocks.0.ls1.gamma": state["norm.bias"]}),
            "blocks.0.ls1.gamma is not part of the network",
        ),
        (
            lambda state: state.update({"pos_embed": state["pos_embed"][:, 1:]}),
            "encoder.pos_embedding is [1, 36, 64], not [1, 37, 64]",
        ),
        (
            lambda state: state.update({"fc_norm.weight": state.pop("norm.weight")}),
            "encoder.ln.weight is missing",
        ),
    ],
)
def test_other_vision_transformers_of_timms_are_refused(tmp_path, change, says):
    """Whose numbers would fit, and mean something else."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state = timms_vit(torch, networks.ARCHITECTURES["vit-slim"], 5).state_dict()
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as error:
        load(tmp_path / "x.pth", "vit-slim")
    assert says in str(error.value)
    assert "a vision transformer in timm's names" in str(error.value)


def test_a_layer_called_module_in_the_network_is_found():
    wanted = Wanted({"module.features.weight": (4, 3)}, "fc", 4)
    tensors = {
        "features.weight": np.ones((4, 3)),
        "fc.weight": np.ones((2, 4)),
        "fc.bias": np.ones(2),
    }
    trunk, head = fitted(tensors, wanted, "x")
    assert trunk.keys() == {"module.features.weight"} and head.keys() == {"weight", "bias"}


VGG16_BN = {f"features.{number}.weight": (64, 64, 3, 3) for number in range(13)} | {
    "features.1.running_mean": (64,),
    "classifier.0.weight": (8, 8),
    "classifier.6.weight": (2, 8),
}


@pytest.mark.parametrize(
    "shapes, text",
    [
        (VGG16_BN, "a VGG-16 with batch norm"),
        ({name: shape for name, shape in VGG16_BN.items() if "running" not in name}, "a VGG-16"),
        (
            {name: shape for name, shape in VGG16_BN.items() if "classifier" not in name},
            "a VGG-16 with batch norm, without its linear layers",
        ),
        ({"blocks.0.attn.qkv.weight": (3, 1)}, "a vision transformer in timm's names"),
        ({"_blocks.0._bn0.weight": (3,)}, "an EfficientNet"),
        ({"a.weight": (3,)}, None),
    ],
)
def test_what_a_file_looks_like(shapes, text):
    assert likeness(shapes) == text


@pytest.mark.parametrize(
    "arch, text",
    [
        ("vgg11", "a VGG-11"),
        ("vgg19_bn", "a VGG-19 with batch norm"),
        ("resnet18", "a ResNet-18"),
        ("resnet50", "a ResNet-50"),
        ("resnet34", "a ResNet-34"),
        ("densenet121", "a DenseNet-121"),
        ("alexnet", "an AlexNet"),
        ("resnext50_32x4d", "a ResNeXt-50"),
        ("wide_resnet50_2", "a wide ResNet-50"),
        ("squeezenet1_1", "a SqueezeNet"),
        ("shufflenet_v2_x0_5", "a ShuffleNetV2"),
        ("mobilenet_v2", "a MobileNetV2"),
        ("googlenet", "a GoogLeNet"),
    ],
)
def test_the_networks_of_the_zoo_look_like_themselves(arch, text):
    trunk = networks.build(arch).trunk
    assert (
        likeness({name: tuple(parameter.shape) for name, parameter in trunk.state_dict().items()})
        == text
    )


def test_a_file_that_does_not_fit_is_described(tmp_path):
    (tmp_path / "x.pth").write_bytes(torch_zip(pretrained_tensors("vgg-bn-slim")))
    with pytest.raises(WeightsError) as error:
        load(tmp_path / "x.pth", "vgg-slim")
    text = str(error.value)
    assert (
        "looks like a narrow VGG of 4 convolutions with batch norm, "
        "and the network is a narrow VGG of 4 convolutions." in text
    )
    assert (
        "In the file are features." in text
        and "; the network has features." in text
        and "\n" not in text
    )
    tensors = pretrained_tensors()
    held = text.partition("In the file are ")[2].partition(" (of ")[0].split(", ")
    assert (
        len(held) == 3
        and set(held) <= pretrained_tensors("vgg-bn-slim").keys()
        and not set(held) & tensors.keys()
    )


# ---- what is no weight file


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


OTHERS = {
    "x.pth": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "Git LFS pointer",
    ),
    "model.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "page.pth": (b"<!DOCTYPE html><html><head><title>Google Drive</title>", "HTML page"),
    "page.pkl": (b"\xef\xbb\xbf\r\n  <html>\xe4\xbd\xa0", "HTML page"),
    "vgg16.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5 file"),
    "vgg16.keras": (zipped("config.json", "model.weights.h5"), ".keras file"),
    "x.npz": (zipped("a.npy", "b.npy"), ".npz file"),
    "x.npy": (b"\x93NUMPY\x01\x00" + bytes(100), "NumPy array"),
    "scripted.pt": (zipped("x/data.pkl", "x/code/a.py", "x/constants.pkl"), "TorchScript"),
    "exported.pt2": (
        zipped("x/models/model.json", "x/data/sample_inputs/model.pt"),
        "torch.export.load(FILE).state_dict",
    ),
    "x.parquet": (b"PAR1" + bytes(100), "parquet"),
    "saved_model.pb": (b"\x08\x01\x12\x00" + bytes(100), "TensorFlow"),
    "x.ckpt.data-00000-of-00001": (bytes(range(100, 200)), "TensorFlow"),
    "x.ckpt.index": (bytes(100) + bytes.fromhex("57fb808b247547db"), "TensorFlow"),
    "x.tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "TensorFlow Lite"),
    "vgg.onnx": (b"\x08\x08\x12\x07pytorch", "ONNX"),
    "resnet.pdparams": (b"\x80\x02}q\x00.", "PaddlePaddle"),
    "x.pth.gz": (b"\x1f\x8b\x08\0" + bytes(20), "compressed with gzip. Unpack it first"),
    "packed.zip": (zipped("vgg16.pth"), "a zip file that holds vgg16.pth"),
    "model.safetensors.index.json": (
        b'{"metadata": {}, "weight_map": {}}',
        "index of weights in several files",
    ),
    "note.pth": (b"Not found", "text, not weights: it begins with 'Not found'"),
    "none.pth": (b"", "empty"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_weight_file_is_called_by_its_name(tmp_path, name):
    content, says = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read_pretrained(tmp_path / name)
    text = str(error.value).replace(str(tmp_path / name), "")
    assert says in text and "truncated" not in text and "could run code" not in text, text


def test_a_pickle_in_letters_is_not_taken_for_a_text(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(TENSORS, 0))
    assert same(read_pretrained(tmp_path / "x.pkl"), TENSORS)


# ---- what a file may claim, and may do


def torch_file(pickled, data=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", data)
    return buffer.getvalue()


def tensor_pickle(shape, stride, offset=0, count=4):
    """{"a.weight": a tensor of float32 in a storage of `count` numbers}"""

    class Tensor:
        pass

    def save(pickler, _):
        pickler.save(Global("torch._utils", "_rebuild_tensor_v2"))
        pickler.write(pickle.MARK)
        pickler.save(("storage", Global("torch", "FloatStorage"), "0", "cpu", count))
        pickler.write(pickle.BINPERSID)
        for value in (offset, shape, stride, False, collections.OrderedDict()):
            pickler.save(value)
        pickler.write(pickle.TUPLE + pickle.REDUCE)

    class Pickler(TorchPickler):
        dispatch = TorchPickler.dispatch | {Tensor: save}

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a.weight": Tensor()})
    return buffer.getvalue()


@pytest.mark.parametrize(
    "shape, stride, offset, message",
    [
        ((5,), (1,), 0, "larger than its data"),
        ((2, 2), (2, 3), 0, "larger than its data"),
        ((2,), (1,), 3, "larger than its data"),
        ((2, 2), (2, -1), 1, "impossible shape"),
        ((-1,), (1,), 0, "impossible shape"),
        ((2, 2), (1,), 0, "impossible shape"),
        ((1 << 40,), (0,), 0, "would take 4,398,046,511,104 bytes"),
        ((1 << 62, 8), (0, 0), 0, "x.pth: "),
    ],
)
def test_a_tensor_is_no_larger_than_its_file(tmp_path, shape, stride, offset, message):
    (tmp_path / "x.pth").write_bytes(torch_file(tensor_pickle(shape, stride, offset), bytes(16)))
    with pytest.raises(WeightsError, match=message):
        read_pretrained(tmp_path / "x.pth")


def test_a_storage_is_no_larger_than_its_file(tmp_path):
    (tmp_path / "x.pth").write_bytes(
        torch_file(tensor_pickle((2,), (1,), count=1 << 40), bytes(16))
    )
    with pytest.raises(WeightsError, match="x.pth"):
        read_pretrained(tmp_path / "x.pth")
    tensors = {f"{number}.weight": np.zeros(1000, np.float32) for number in range(3)}
    (tmp_path / "x.pth").write_bytes(
        torch_legacy(tensors)[:5000]
    )  # each is smaller than the file, all are larger
    with pytest.raises(WeightsError, match="holds tensors that are larger than the file"):
        read_pretrained(tmp_path / "x.pth")


def test_an_index_of_a_pickle_takes_no_memory(tmp_path):
    """The C unpickler takes 2 GB for these 8 bytes."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for opcodes in (
        b"Nr" + struct.pack("<I", 0x7FFFFF0) + b".",
        b"\x96" + struct.pack("<Q", 1 << 31) + b"x.",
    ):
        (tmp_path / "x.pkl").write_bytes(b"\x80\x05" + opcodes)
        with pytest.raises(WeightsError):
            read_pretrained(tmp_path / "x.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # KB


def called(module, name, *arguments):
    """A pickle of {"a.weight": module.name(*arguments)}, which needs neither."""
    buffer = io.BytesIO()
    pickler = TorchPickler(buffer, 2)
    pickler.write(pickle.PROTO + b"\x02")
    pickler.save({})
    pickler.save("a.weight")
    pickler.save(Global(module, name))
    pickler.save(arguments)
    pickler.write(pickle.REDUCE + pickle.SETITEM + pickle.STOP)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "module, name",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("pip", "main"),
        ("numpy.testing._private.utils", "runstring"),
        ("importlib", "import_module"),
        ("types", "FunctionType"),
        ("collections", "abc.Mapping.register"),
        ("operator", "attrgetter"),
    ],
)
def test_a_name_that_is_no_class_of_a_network_is_refused(tmp_path, module, name):
    for path, content in (
        ("x.pkl", called(module, name, "x")),
        ("x.pth", torch_file(called(module, name, "x"))),
    ):
        (tmp_path / path).write_bytes(content)
        for read in (read_pretrained, read_objects):
            with pytest.raises(
                WeightsError, match=f"refused: asks for {module}.{name}, which is not part"
            ):
                read(tmp_path / path)


@pytest.mark.parametrize(
    "module, name",
    [("torch.hub", "load"), ("torch", "load"), ("evil.room", "Thing"), ("__main__", "Net")],
)
def test_what_a_stand_in_is_taken_for_does_not_run(tmp_path, module, name):
    (tmp_path / "x.pkl").write_bytes(called(module, name, "x"))
    with pytest.raises(WeightsError, match="x.pkl: none of its entries is an array"):
        read_pretrained(tmp_path / "x.pkl")
    assert read_objects(tmp_path / "x.pkl")["a.weight"].kind == f"{module}.{name}"


def test_a_file_does_not_change_the_reader(tmp_path):
    """A pickle can set attributes of what it names, too."""
    from storage import pickles

    before = dict(vars(pickles._torch_tensor))
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb."
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(WeightsError, match="refused: changes something that is not its own"):
        read_pretrained(tmp_path / "x.pkl")
    assert dict(vars(pickles._torch_tensor)) == before


# ---- caches


@pytest.fixture
def no_caches(monkeypatch, tmp_path):
    for variable in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage.downloads, "JITTOR_URL", "http://127.0.0.1:9/")
    return tmp_path / "cache"


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_weights_that_are_there_are_not_downloaded(no_caches, tmp_path, monkeypatch, capsys):
    with pytest.raises(
        WeightsError, match="neither in the cache of torch.hub nor in that of Hugging Face"
    ):
        published_weights("vgg16.pkl", tmp_path)
    timms = put(
        no_caches / "huggingface/hub/models--timm--vgg16.tv_in1k/snapshots/ab/model.safetensors"
    )
    assert (
        published_weights("vgg16.pkl", tmp_path) == timms and str(timms) in capsys.readouterr().out
    )
    torchs = put(no_caches / "torch/hub/checkpoints/vgg16-397923af.pth")
    assert (
        published_weights("vgg16.pkl", tmp_path) == torchs
        and str(torchs) in capsys.readouterr().out
    )
    ours = put(tmp_path / "vgg16.pkl")
    assert published_weights("vgg16.pkl", tmp_path) == ours and capsys.readouterr().out == ""


def test_the_variables_say_where_the_caches_are(no_caches, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "th"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    found = put(tmp_path / "hf/hub/models--timm--resnet18.tv_in1k/snapshots/ab/pytorch_model.bin")
    assert cached("resnet18") == found
    found = put(tmp_path / "th/hub/checkpoints/resnet18-f37072fd.pth")
    assert cached("resnet18") == found


def test_of_torchvisions_two_files_the_papers_is_taken(no_caches):
    put(no_caches / "torch/hub/checkpoints/resnet50-11ad3fa6.pth")
    assert cached("resnet50") is None
    found = put(no_caches / "torch/hub/checkpoints/resnet50-0676ba61.pth")
    assert cached("resnet50") == found
    (
        put(no_caches / "torch/hub/checkpoints/resnet101-63fe2227.pth"),
        put(no_caches / "torch/hub/checkpoints/resnet101-cd907fc2.pth"),
    )
    assert cached("resnet101") is None  # nobody knows which


@pytest.mark.parametrize(
    "network, file",
    [
        ("alexnet", "alexnet-owt-7be5be79.pth"),
        ("inception_v3", "inception_v3_google-0cc3c7bd.pth"),
        ("mnasnet0_5", "mnasnet0.5_top1_67.823-3ffadce67e.pth"),
        ("mnasnet0_75", "mnasnet0_75-7090bc5f.pth"),
        ("mnasnet1_0", "mnasnet1.0_top1_73.512-f206786ef8.pth"),
        ("shufflenet_v2_x0_5", "shufflenetv2_x0.5-f707e7126e.pth"),
        ("shufflenet_v2_x1_0", "shufflenetv2_x1-5666bf0f80.pth"),
        ("shufflenet_v2_x1_5", "shufflenetv2_x1_5-3c479a10.pth"),
        ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"),
    ],
)
def test_torchvisions_files_are_found_under_their_names(no_caches, network, file):
    for other in ("shufflenetv2_x1-5666bf0f80.pth", "shufflenetv2_x1_5-3c479a10.pth"):
        put(no_caches / "torch/hub/checkpoints" / other)
    found = put(no_caches / "torch/hub/checkpoints" / file)
    assert cached(network) == found


# ---- what is written


def in_any_order():
    """Arrays that are not in C order, and one of no axes."""
    numbers = np.arange(24, dtype=np.float32).reshape(4, 6)
    return {
        "a.weight": numbers.T,
        "b.weight": np.asfortranarray(numbers),
        "c.weight": numbers[:, ::2],
        "d.weight": numbers[::-1],
        "e.weight": np.broadcast_to(numbers[:1], (3, 6)),
        "f.num_batches_tracked": np.zeros((), np.int64),
    }


def test_every_array_is_written_as_it_is_whatever_its_order(tmp_path):
    """safetensors 0.8.0 alone writes wrong numbers for the first five."""
    from safetensors.numpy import load_file

    from storage.checkpoint import load_checkpoint, save_checkpoint, write_tensors

    write_tensors(tmp_path / "x.safetensors", in_any_order(), {"a": "b"})
    expected = {name: np.array(array, order="C") for name, array in in_any_order().items()}
    assert same(load_file(tmp_path / "x.safetensors"), expected)
    save_checkpoint(tmp_path / "y.safetensors", in_any_order(), {})
    assert same(load_checkpoint(tmp_path / "y.safetensors")[0], expected)
    write_torch_file(tmp_path / "z.pth", in_any_order())
    assert same(read_pretrained(tmp_path / "z.pth"), expected)


@pytest.mark.parametrize("mmap", [False, True])
def test_pytorch_reads_what_is_written_without_it(tmp_path, mmap):
    torch = pytest.importorskip("torch")
    arrays = in_any_order() | {
        "half": np.ones(3, np.float16),
        "mask": np.array([True, False]),
        "bytes": np.arange(3, dtype=np.uint8),
        "none": np.zeros((0, 3), np.float32),
        "名字.weight": np.ones((1, 2, 3, 4)),
    }
    write_torch_file(tmp_path / "x.pth", arrays)
    got = torch.load(tmp_path / "x.pth", weights_only=True, mmap=mmap)
    assert type(got) is collections.OrderedDict and list(got) == list(arrays)
    assert same({name: tensor.numpy() for name, tensor in got.items()}, arrays)


def test_the_same_tensors_give_the_same_pth(tmp_path):
    for name in "xy":
        write_torch_file(tmp_path / name, TENSORS)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
