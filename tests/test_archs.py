"""The networks beside the paper's: Jittor's zoo, the vision transformer against PyTorch, a file of
the user's own, small images."""

import ast
import inspect
import pkgutil
import textwrap
from importlib import import_module

import numpy as np
import pytest
from conftest import ROOT, jt

import networks
from packing.parameters import OWNED, PRIVATE, SHARED, parameters_of
from pruning import PackNet
from runs.network import check_own, warn_of_own
from settings.archs import ARCHS, FIXED_SIZE, PUBLISHED_WEIGHTS, ZOO, own, source_of
from settings.config import Config, ConfigError
from trunks.layers import AdaptivePool, Pool, PooledConv
from trunks.vit import ViT, ViTShape

nn = jt.nn


def batches(side, seed, count=1, size=4):
    rng = np.random.default_rng(seed)
    return [
        (
            jt.array(rng.normal(size=(size, 3, side, side)).astype(np.float32)),
            jt.array(rng.integers(0, 3, size)),
        )
        for _ in range(count)
    ]


def three_tasks(net, side, **options):
    """Momentum, weight decay, a prune each; old tasks to the bit."""
    for task in "abc":
        net.add_head(task, 3)
    packnet, kept = PackNet(net, 0.5, **options), {}
    for number, task in enumerate("abc"):
        packnet.train_task(task, batches(side, number), 1, lr=1e-4, momentum=0.9, weight_decay=1e-2)
        packnet.prune_and_freeze(task)
        packnet.train_task(task, batches(side, number), 1, lr=1e-4, momentum=0.9, weight_decay=1e-2)
        kept[task] = packnet.predict(task, batches(side, 9))[0]
        assert np.isfinite(kept[task]).all() and kept[task].shape == (4, 3)
        for old, logits in kept.items():
            assert np.array_equal(packnet.predict(old, batches(side, 9))[0], logits), (old, task)
    assert not np.array_equal(kept["a"], kept["b"])
    return packnet


# ---- Jittor's zoo


def test_the_zoo_is_all_of_it():
    """Every function of jittor.models that takes `pretrained` makes an image classifier; the
    capitals are other names of the same."""
    from jittor import models

    found = {
        name
        for module in pkgutil.iter_modules(models.__path__)
        for name, value in vars(import_module(f"jittor.models.{module.name}")).items()
        if inspect.isfunction(value)
        and "pretrained" in inspect.signature(value).parameters
        and name[0].islower()
    }
    assert found == set(ZOO)


def test_the_networks_that_the_settings_name_are_those_that_can_be_built():
    assert ARCHS.keys() == networks.ARCHITECTURES.keys()
    assert PUBLISHED_WEIGHTS == {
        name for name, shape in networks.ARCHITECTURES.items() if shape.pretrained
    }
    assert {
        name: shape.image_size
        for name, shape in networks.ARCHITECTURES.items()
        if isinstance(shape, ViTShape)
    } == FIXED_SIZE


@pytest.mark.slow  # half a minute to some minutes each, most of it to compile
@pytest.mark.parametrize("arch", sorted(ZOO))
def test_a_network_of_the_zoo_keeps_old_tasks_to_the_bit(arch):
    # batch norm wants more than 4 values in the last layers
    packnet = three_tasks(networks.build(arch), max(64, ARCHS[arch]))
    kinds = {parameter.kind for parameter in packnet.parameters.values()}
    assert kinds <= {OWNED, SHARED, "head"}
    for name, parameter in packnet.parameters.items():  # whatever has a kernel is packed
        if len(parameter.var.shape) == 4 and parameter.kind != "head":
            assert parameter.kind == OWNED, name


def test_what_is_half_way_for_training_only_is_left_out():
    for arch, part in (("googlenet", "aux1"), ("inception_v3", "AuxLogits")):
        assert not any(part in name for name in networks.build(arch).state_dict())


def test_inputs_of_googlenet_are_as_torchvision_gives_them():
    """transform_input of torchvision: x * (deviation / 0.5) + (mean - 0.5) / 0.5."""
    from trunks.zoo import from_minus_one_to_one

    images = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    (ours,), _ = from_minus_one_to_one(None, (jt.array(images),))
    for channel, (mean, deviation) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        assert np.allclose(
            ours.numpy()[:, channel],
            images[:, channel] * (deviation / 0.5) + (mean - 0.5) / 0.5,
            atol=1e-6,
        )


def test_the_head_of_squeezenet_is_a_convolution():
    torch = pytest.importorskip("torch")
    head, x = (
        PooledConv(5, 3),
        np.random.default_rng(0).normal(size=(2, 5, 4, 4)).astype(np.float32),
    )
    conv = torch.nn.Conv2d(5, 3, 1)
    conv.load_state_dict(
        {name: torch.from_numpy(value.numpy()) for name, value in head.state_dict().items()}
    )
    theirs = torch.relu(conv(torch.from_numpy(x))).mean((2, 3)).detach().numpy()
    assert np.abs(head(jt.array(x.reshape(2, -1))).numpy() - theirs).max() < 1e-6


ALEXNET = {  # torchvision's names and shapes, of its file alexnet-owt-7be5be79.pth
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
    "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096),
    "classifier.6": (1000, 4096),
}


def torch_alexnet(torch, tensors, images):
    """Written out by hand, from tensors of torchvision's names."""
    functional = torch.nn.functional

    def layer(name, x, **options):
        weight, bias = (torch.from_numpy(tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
        if weight.ndim == 2:
            return functional.linear(x, weight, bias)
        return functional.conv2d(x, weight, bias, **options)

    def pool(x):
        return functional.max_pool2d(x, 3, stride=2)

    x = torch.from_numpy(images)
    x = pool(torch.relu(layer("features.0", x, stride=4, padding=2)))
    x = pool(torch.relu(layer("features.3", x, padding=2)))
    for name in ("features.6", "features.8", "features.10"):
        x = torch.relu(layer(name, x, padding=1))
    x = functional.adaptive_avg_pool2d(pool(x), 6).flatten(1)
    for name in ("classifier.1", "classifier.4"):
        x = torch.relu(layer(name, x))
    return layer("classifier.6", x).numpy()


def test_alexnet_is_torchvisions():
    """Its names and shapes, its logits at the size of ImageNet and at a small one, and what of it
    is packed: every weight."""
    torch = pytest.importorskip("torch")
    net = networks.build("alexnet")
    net.add_head("imagenet", 1000)
    named = networks.in_torchvisions_names(net, "imagenet")
    tensors = {name: value.numpy() for name, value in named.items()}
    assert {name: array.shape for name, array in tensors.items()} == {
        f"{name}.{part}": shape[: None if part == "weight" else 1]
        for name, shape in ALEXNET.items()
        for part in ("weight", "bias")
    }
    owned = {name for name, each in parameters_of(net).items() if each.kind == OWNED}
    assert owned == {f"trunk.{name}.weight" for name in ALEXNET} - {"trunk.classifier.6.weight"}
    net.eval()
    net.select("imagenet")
    rng = np.random.default_rng(0)
    for side in (224, 64):
        images = rng.standard_normal((2, 3, side, side), np.float32)
        logits = net(jt.array(images)).numpy()
        theirs = torch_alexnet(torch, tensors, images)
        assert np.abs(logits - theirs).max() < 1e-4 * np.abs(theirs).max()
        assert np.abs(theirs[0] - theirs[1]).max() > 1e-2 * np.abs(theirs).max()


@pytest.mark.parametrize("arch", ["squeezenet1_1", "shufflenet_v2_x0_5", "vit-slim"])
def test_weights_load_by_torchvisions_names_and_go_out_under_them(arch, tmp_path):
    torch = pytest.importorskip("torch")
    net = networks.build(arch)
    net.add_head("a", 5)
    tensors = {
        name: np.ascontiguousarray(value.numpy())
        for name, value in networks.in_torchvisions_names(net, "a").items()
    }
    assert f"{networks.ARCHITECTURES[arch].last}.weight" in tensors and not any(
        name.startswith(("trunk", "heads.a")) for name in tensors
    )
    torch.save(
        {name: torch.from_numpy(value) for name, value in tensors.items()}, tmp_path / "weights.pth"
    )
    again = networks.build(arch)
    networks.load_pretrained(again, tmp_path / "weights.pth", "a")
    assert all(
        np.array_equal(value.numpy(), net.state_dict()[name].numpy())
        for name, value in again.state_dict().items()
    )


# ---- small images


@pytest.mark.parametrize(
    "side, n", [(7, 1), (7, 2), (7, 3), (7, 7), (7, 8), (7, 10), (7, 14), (6, 4), (6, 13)]
)
def test_adaptive_pooling_is_pytorchs(side, n):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(n).normal(size=(2, 3, n, n + 1)).astype(np.float32)
    theirs = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x), side).numpy()
    assert np.abs(AdaptivePool(side)(jt.array(x)).numpy() - theirs).max() < 1e-6


@pytest.mark.parametrize(
    "n, kernel, stride, padding, ceil_mode",
    [
        (2, 2, 2, 0, False),
        (3, 3, 1, 1, True),
        (1, 3, 1, 1, True),
        (2, 3, 2, 1, False),
        (3, 3, 2, 0, True),
        (2, 3, 2, 0, True),
        (9, 3, 2, 0, True),
    ],
)
def test_pooling_of_tiny_images_is_pytorchs(n, kernel, stride, padding, ceil_mode):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(n).normal(size=(2, 3, n, n)).astype(np.float32)
    theirs = torch.nn.functional.max_pool2d(
        torch.from_numpy(x), kernel, stride, padding, ceil_mode=ceil_mode
    ).numpy()
    assert np.array_equal(
        Pool(kernel, stride, padding, ceil_mode=ceil_mode, op="maximum")(jt.array(x)).numpy(),
        theirs,
    )
    with pytest.raises(ValueError, match="smaller than the kernel"):
        Pool(3, op="maximum")(jt.ones((1, 1, 2, 2)))


@pytest.mark.parametrize("side", [32, 64])
def test_vgg_takes_small_images(side):
    net = networks.build("vgg16-slim")
    net.add_head("a", 3)
    packnet = PackNet(net)
    packnet.train_task("a", batches(side, 0), 1)
    assert packnet.predict("a", batches(side, 0))[0].shape == (4, 3)


@pytest.mark.parametrize(
    "arch, size, message",
    [
        ("vgg16", 31, "must be at least 32 for vgg16"),
        ("inception_v3", 170, "must be at least 171"),
        ("vit-slim", 64, "must be 48"),
        ("resnet19", 224, "must be one of vgg16"),
        ("x/net.py", 224, "or path/to/file.py:function"),
    ],
)
def test_sizes_and_names_are_checked_before_jittor_starts(arch, size, message):
    with pytest.raises(ConfigError, match=message):
        Config(arch=arch, image_size=size).check_values()


# ---- the vision transformer


def vit_names(layers, width, hidden, tokens, patch):
    """torchvision's, written down from its documentation of vit_b_16."""
    shapes = {
        "class_token": (1, 1, width),
        "conv_proj.weight": (width, 3, patch, patch),
        "conv_proj.bias": (width,),
        "encoder.pos_embedding": (1, tokens, width),
    }
    for number in range(layers):
        block = f"encoder.layers.encoder_layer_{number}."
        shapes |= {
            f"{block}ln_1.weight": (width,),
            f"{block}ln_1.bias": (width,),
            f"{block}self_attention.in_proj_weight": (3 * width, width),
            f"{block}self_attention.in_proj_bias": (3 * width,),
            f"{block}self_attention.out_proj.weight": (width, width),
            f"{block}self_attention.out_proj.bias": (width,),
            f"{block}ln_2.weight": (width,),
            f"{block}ln_2.bias": (width,),
            f"{block}mlp.0.weight": (hidden, width),
            f"{block}mlp.0.bias": (hidden,),
            f"{block}mlp.3.weight": (width, hidden),
            f"{block}mlp.3.bias": (width,),
        }
    return shapes | {"encoder.ln.weight": (width,), "encoder.ln.bias": (width,)}


def test_vit_b_16_has_torchvisions_parameters():
    net = networks.build("vit_b_16")
    net.add_head("a", 1000)
    ours = {
        name: tuple(value.shape) for name, value in networks.in_torchvisions_names(net, "a").items()
    }
    assert ours == vit_names(12, 768, 3072, 197, 16) | {
        "heads.head.weight": (1000, 768),
        "heads.head.bias": (1000,),
    }
    # torchvision's own count
    assert sum(int(np.prod(shape)) for shape in ours.values()) == 86_567_656


def torch_vit(torch, shape, classes):
    """The network in plain PyTorch, with torchvision's names: attention is
    torch.nn.MultiheadAttention."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = (
                torch.nn.LayerNorm(shape.width, eps=1e-6),
                torch.nn.LayerNorm(shape.width, eps=1e-6),
            )
            self.self_attention = torch.nn.MultiheadAttention(
                shape.width, shape.heads, batch_first=True
            )
            self.mlp = torch.nn.Sequential(
                torch.nn.Linear(shape.width, shape.hidden),
                torch.nn.GELU(),
                torch.nn.Dropout(0.0),
                torch.nn.Linear(shape.hidden, shape.width),
                torch.nn.Dropout(0.0),
            )

        def forward(self, x):
            y = self.ln_1(x)
            x = x + self.self_attention(y, y, y, need_weights=False)[0]
            return x + self.mlp(self.ln_2(x))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.class_token = torch.nn.Parameter(torch.zeros(1, 1, shape.width))
            self.conv_proj = torch.nn.Conv2d(3, shape.width, shape.patch, shape.patch)
            self.encoder = torch.nn.Module()
            self.encoder.pos_embedding = torch.nn.Parameter(
                torch.zeros(1, (shape.image_size // shape.patch) ** 2 + 1, shape.width)
            )
            self.encoder.layers = torch.nn.ModuleDict(
                {f"encoder_layer_{number}": Block() for number in range(shape.layers)}
            )
            self.encoder.ln = torch.nn.LayerNorm(shape.width, eps=1e-6)
            self.heads = torch.nn.ModuleDict({"head": torch.nn.Linear(shape.width, classes)})

        def forward(self, x):
            x = self.conv_proj(x).flatten(2).transpose(1, 2)
            x = (
                torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
                + self.encoder.pos_embedding
            )
            for block in self.encoder.layers.values():
                x = block(x)
            return self.heads["head"](self.encoder.ln(x)[:, 0])

    return Net().eval()


def random_vit(arch="vit-slim", tasks="a"):
    """In which every part does something."""
    net, rng = networks.build(arch), np.random.default_rng(1)
    for task in tasks:
        net.add_head(task, 5)
    for name, parameter in net.state_dict().items():
        if len(parameter.shape) != 2 and "conv" not in name:
            parameter.assign(
                jt.array(
                    (parameter.numpy() + rng.normal(0, 0.3, parameter.shape)).astype(np.float32)
                )
            )
    jt.sync_all()
    return net


@pytest.mark.parametrize("arch", ["vit-slim", pytest.param("vit_b_16", marks=pytest.mark.slow)])
def test_the_vision_transformer_gives_pytorchs_logits(arch):
    torch = pytest.importorskip("torch")
    shape, net = networks.ARCHITECTURES[arch], random_vit(arch)
    twin = torch_vit(torch, shape, 5)
    twin.load_state_dict(
        {
            name: torch.from_numpy(value.numpy().copy())
            for name, value in networks.in_torchvisions_names(net, "a").items()
        }
    )
    images = (
        np.random.default_rng(2)
        .normal(size=(2, 3, shape.image_size, shape.image_size))
        .astype(np.float32)
    )
    ours, _ = PackNet_of_one(net).predict("a", [(jt.array(images), jt.array([0, 1]))])
    with torch.no_grad():
        theirs = twin(torch.from_numpy(images)).numpy()
    assert (
        np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
        and np.abs(theirs[0] - theirs[1]).max() > 1e-2
    )


def PackNet_of_one(net):
    packnet = PackNet(net)
    packnet.start_task("a")
    return packnet


def test_older_files_of_vit_b_16_load_too(tmp_path):
    """In the published file the MLP's layers are called linear_1 and linear_2."""
    torch = pytest.importorskip("torch")
    source = random_vit()
    tensors = {
        name.replace("mlp.0.", "mlp.linear_1.").replace(
            "mlp.3.", "mlp.linear_2."
        ): torch.from_numpy(value.numpy().copy())
        for name, value in networks.in_torchvisions_names(source, "a").items()
    }
    torch.save(tensors, tmp_path / "vit.pth")
    net = networks.build("vit-slim")
    networks.load_pretrained(net, tmp_path / "vit.pth", "a")
    assert all(
        np.array_equal(value.numpy(), source.state_dict()[name].numpy())
        for name, value in net.state_dict().items()
    )


@pytest.mark.parametrize("own_norms", [False, True])
def test_the_vision_transformer_is_packed(own_norms):
    packnet = three_tasks(networks.build("vit-slim"), 48, train_bn=own_norms)
    block = "trunk.encoder.layers.encoder_layer_0."
    kinds = {name: parameter.kind for name, parameter in packnet.parameters.items()}
    assert {
        kinds[f"{block}{name}.weight"]
        for name in ("self_attention.in_proj", "self_attention.out_proj", "mlp.0", "mlp.3")
    } == {OWNED}
    assert (
        kinds[f"{block}ln_1.weight"]
        == kinds["trunk.encoder.ln.bias"]
        == (PRIVATE if own_norms else SHARED)
    )
    assert (
        kinds["trunk.class_token"]
        == kinds["trunk.encoder.pos_embedding"]
        == kinds[f"{block}mlp.0.bias"]
        == SHARED
    )


def test_a_vision_transformer_without_jittors_norm_is_one_of_linear_layers():
    """Nothing in it but what is accounted for."""
    types = {
        type(module).__name__
        for module in ViT(networks.ARCHITECTURES["vit-slim"]).modules()
        if vars(module)
    }
    assert "MultiheadAttention" not in types


# ---- a network of one's own


def write(path, body):
    path.write_text("from jittor import nn\nimport jittor as jt\n\n" + textwrap.dedent(body))
    return f"{path}:build"


PLAIN = """
    class Net(nn.Module):
        def __init__(self):
            self.conv = nn.Conv(3, 4, 3)
            self.gate = nn.Linear(4, 4)
            self.out = nn.Linear(4, 7)

        def execute(self, x):
            x = nn.relu(self.conv(x)).mean((2, 3))
            return self.out(x * self.gate(x).sigmoid())

    def build():
        return Net()
    """


LAST = "self.out(x * self.gate(x).sigmoid())"


def ending(result: str) -> str:
    """PLAIN with another result."""
    return PLAIN.replace(LAST, result)


def test_a_network_of_ones_own(tmp_path):
    arch = write(tmp_path / "my_net.py", PLAIN)
    assert own(arch) == (tmp_path / "my_net.py", "build")
    net = networks.build(arch, image_size=12)
    assert (
        net.last == "out" and net.num_features == 4 and "trunk.out.weight" not in net.state_dict()
    )
    packnet = three_tasks(net, 12)
    assert list(packnet.owners) == ["trunk.conv.weight", "trunk.gate.weight"]
    assert networks.build(arch, last="out", image_size=12).last == "out"
    assert (
        source_of(arch)["file"] == "my_net.py"
        and len(source_of(arch)["sha256"]) == 64
        and source_of("vgg16") is None
    )


def test_a_network_that_gives_features(tmp_path):
    features = ending("nn.relu(self.out(x))")
    net = networks.build(write(tmp_path / "features.py", features), image_size=12)
    assert net.last == "" and net.num_features == 7 and "trunk.out.weight" in net.state_dict()
    # said to be no classifier's
    net = networks.build(write(tmp_path / "named.py", PLAIN), last="none", image_size=12)
    assert net.last == "" and net.num_features == 7


def test_the_file_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "my_blocks_beside.py").write_text("WIDTH = 9\n")
    body = "from my_blocks_beside import WIDTH\n" + textwrap.dedent(PLAIN).replace(
        "(4, 7)", "(4, WIDTH)"
    )
    assert networks.build(write(tmp_path / "net.py", body), image_size=12).last == "out"
    (tmp_path / "my_blocks_later.py").write_text("FACTOR = 1\n")
    body = PLAIN.replace("return self", "from my_blocks_later import FACTOR; return FACTOR * self")
    assert networks.build(write(tmp_path / "late.py", body), image_size=12).num_features == 4


@pytest.mark.parametrize(
    "body, message",
    [
        ("build = 3", "no function build"),
        ("def other(): pass", "no function build"),
        ("def build(): return 3", "returns int"),
        ("def build(): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named"),
        (
            "def build(): return nn.Linear(5, 5)",
            "fails on images float32 .2, 3, 12, 12.: AssertionError",
        ),
        ("def build(): return nn.Conv(3, 4, 3)", "gives .2, 4, 10, 10. for 2 images"),
        (PLAIN.replace("x * self.gate(x).sigmoid())", "x), x"), "gives tuple"),
        (
            PLAIN.replace("x = nn.relu", "self.conv.weight = self.conv.weight * 1.0; x = nn.relu"),
            "conv.weight is made while the network runs",
        ),
        ("import sys\nsys.exit()", "ends the program, .*line 5 of net.py.*if __name__ == "),
        ("def build(): raise SystemExit('no')", "ends the program"),
        (PLAIN.replace("Conv(3, 4, 3)", "Conv(1, 4, 3)"), "AssertionError .line 12 of net.py"),
        (
            PLAIN.replace(".mean((2, 3))", ".reshape((-1, 4, 50)).mean(2)"),
            "gives .4, 4. for 2 images, not float32 .2, 4.. A reshape",
        ),
        (ending("self.out(x).squeeze()"), "gives .4. for one image, and .2, 4. for two.*squeeze"),
        (ending("self.out(x).float64()"), "gives float64 .2, 4. for 2 images"),
        (ending("nn.Softmax(dim=1)(self.out(x))"), "shares that add up to 1"),
        (ending("nn.log_softmax(self.out(x), 1)"), "shares that add up to 1"),
        (
            PLAIN.replace("self.out =", "self.gate.all = self; self.out ="),
            "gate.all is a layer that it is itself a part of",
        ),
    ],
)
def test_what_is_wrong_with_ones_own_network_is_said(tmp_path, body, message):
    with pytest.raises(ConfigError, match=message):
        networks.build(write(tmp_path / "net.py", body), image_size=12)


def test_softmax_behind_a_layer_that_is_named_is_said(tmp_path):
    body = ending("nn.softmax(self.out(x), 1)")
    with pytest.raises(ConfigError, match="shares that add up to 1"):
        networks.build(write(tmp_path / "net.py", body), last="out", image_size=12)


@pytest.mark.parametrize(
    "training, message",
    [
        ("(x, x)", "in training gives tuple for images of 12 x 12, not one Var"),
        ("x[:, :3]", "in training gives .2, 3. for 2 images, and .2, 4. in a test"),
        ("self.gone(x)", "in training fails .*AttributeError.*line 13 of net.py"),
    ],
)
def test_a_network_that_is_another_in_training_is_said_before_a_run_begins(
    tmp_path, training, message
):
    """As those with a second classifier half-way are."""
    body = ending(f"{training} if self.is_training() else {LAST}")
    config = Config(arch=write(tmp_path / "net.py", body), image_size=12)
    net = networks.build(**config.network())
    with pytest.raises(ConfigError, match=message):
        check_own(net, config)


def test_a_look_at_the_training_leaves_every_value_as_it_was(tmp_path):
    body = PLAIN.replace("self.gate =", "self.norm = nn.BatchNorm(4); self.gate =")
    body = body.replace("nn.relu(self.conv(x))", "nn.dropout(self.norm(self.conv(x)), 0.5, True)")
    config = Config(arch=write(tmp_path / "net.py", body), image_size=12)
    net = networks.build(**config.network())
    before = {name: var.numpy() for name, var in net.state_dict().items()}
    modes = [module.is_training() for module in net.modules()]
    gradients = [var.is_stop_grad() for var in net.state_dict().values()]
    check_own(net, config)
    after = {name: var.numpy() for name, var in net.state_dict().items()}
    assert before.keys() == after.keys() and "trunk.norm.running_var" in after
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert modes == [module.is_training() for module in net.modules()]
    assert gradients == [var.is_stop_grad() for var in net.state_dict().values()]


def test_a_network_taken_for_features_is_said_unless_that_is_meant(tmp_path, capsys):
    scaled = ending(f"2 * {LAST}")
    said = "no linear layer's output, so all 7 numbers of it are taken as features"
    for body, last, warned in ((scaled, None, True), (scaled, "none", False), (PLAIN, None, False)):
        arch = write(tmp_path / "net.py", body)
        config = Config(arch=arch, last=last, image_size=12)
        warn_of_own(networks.build(**config.network()), config)
        assert (said in "".join(capsys.readouterr())) == warned


def test_a_wrong_last_layer_is_said(tmp_path):
    arch = write(tmp_path / "net.py", PLAIN)
    with pytest.raises(
        ConfigError, match="--last head: .* has no linear layer of that name; it has gate, out"
    ):
        networks.build(arch, last="head", image_size=12)
    with pytest.raises(
        ConfigError, match="without its layer gate it gives .2, 7. for 2 images, not float32 .2, 4."
    ):
        networks.build(arch, last="gate", image_size=12)
    with pytest.raises(ConfigError, match="--last out: is for a network of your own"):
        Config(arch="vgg16", last="out").check_values()


def own_files(root):
    """Every Python file of a checkout, but for those of an environment inside it."""
    environments = {path.parent for path in root.glob("*/pyvenv.cfg")}
    return [path for path in root.glob("**/*.py") if not environments & set(path.parents)]


def test_an_environment_inside_the_checkout_is_not_the_projects(tmp_path):
    for name in ("main.py", "room/a.py", ".venv/lib/python3.11/site-packages/pip/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".venv/pyvenv.cfg").touch()
    assert {path.name for path in own_files(tmp_path)} == {"main.py", "a.py"}
    assert ROOT / "main.py" in own_files(ROOT) and ROOT / "toolchain/cpu.py" in own_files(ROOT)


def test_only_the_loader_of_files_imports_by_path():
    """Nothing else can run a user's file."""
    for path in own_files(ROOT):
        if "tests" not in path.parts and path.name != "own.py":
            names = {
                node.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute)
            }
            assert (
                not names & {"spec_from_file_location", "exec_module", "run_path"}
                or "toolchain" in path.parts
            ), path
