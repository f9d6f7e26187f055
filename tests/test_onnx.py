"""--export FILE.onnx: onnxruntime gives our logits, for every kind of network."""

import importlib.util
import json

import numpy as np
import pytest
from conftest import jt
from test_networks import batches, random_network

import evaluate
import networks
from pruning import PackNet
from settings.archs import ARCHS, ZOO
from settings.config import ConfigError

nn = jt.nn
needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None, reason="the package onnx is not installed"
)


def metadata_of(arch, side):
    entry = dict(
        name="a", num_classes=5, classes=list("vwxyz"), input={"size": side}, seal="0" * 64
    )
    return dict(arch=arch, image_size=side, tasks=[entry, entry | dict(name="b")])


def assert_same_logits(packnet, arch, side, path, tasks="a"):
    """For one image, and for three: the graph takes any number."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    images = np.random.default_rng(1).normal(size=(3, 3, side, side)).astype(np.float32)
    for task in tasks:
        evaluate.export(packnet, metadata_of(arch, side), task, str(path / f"{task}.onnx"))
        session = runtime.InferenceSession(
            path / f"{task}.onnx", providers=["CPUExecutionProvider"]
        )
        ours, _ = packnet.predict(task, [(jt.array(images), np.zeros(3, np.int32))])
        assert ours.std() > 1e-3
        for count in (1, 3):
            (theirs,) = session.run(["logits"], {"images": images[:count]})
            assert np.abs(ours[:count] - theirs).max() < 1e-5 * np.abs(ours).max(), (
                arch,
                task,
                count,
            )


def of_one_task(net):
    packnet = PackNet(net)
    packnet.start_task("a")
    return packnet


@needs_onnx
@pytest.mark.parametrize(
    "arch", ["vgg-slim", "vgg-bn-slim", "resnet-slim", "densenet-slim", "vit-slim", "mlp"]
)
def test_every_kind_of_network(arch, tmp_path):
    side = 48 if arch != "mlp" else 28
    packnet = PackNet(random_network(arch), 0.5)
    if arch == "mlp":  # its images are of another size
        packnet.start_task("a")
    else:
        packnet.train_task("a", batches(0, 1), 1, lr=1e-3)
    packnet.prune("a")
    packnet.start_task("b")
    assert_same_logits(packnet, arch, side, tmp_path, "ab")


@needs_onnx
@pytest.mark.parametrize(
    "arch, side",
    [("squeezenet1_1", 64), ("shufflenet_v2_x0_5", 64), ("mobilenet_v2", 64), ("vgg-slim", 50)],
)
def test_small_networks_of_the_zoo_and_images_of_any_size(arch, side, tmp_path):
    assert_same_logits(of_one_task(random_network(arch, "a")), arch, side, tmp_path)


@needs_onnx
@pytest.mark.slow  # seconds to a minute each
@pytest.mark.parametrize("arch", sorted(ARCHS.keys() - {"vit-slim", "mlp"}))
def test_every_network(arch, tmp_path):
    side = max(64 if arch in ZOO else 48, ARCHS[arch])
    if arch in ("vgg16", "resnet50", "densenet121"):
        side = 224
    assert_same_logits(of_one_task(random_network(arch, "a")), arch, side, tmp_path)


@needs_onnx
def test_the_file_says_what_it_is(tmp_path):
    import onnx

    net = random_network("vgg-bn-slim", "a")
    evaluate.export(of_one_task(net), metadata_of("vgg-bn-slim", 48), "a", str(tmp_path / "a.onnx"))
    model = onnx.load(tmp_path / "a.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert (
        json.loads(about["classes"]) == list("vwxyz")
        and json.loads(about["input"]) == {"size": 48}
        and about["task"] == "a"
    )
    assert model.opset_import[0].version == 18
    assert {"features.0.weight", "features.1.running_mean", "classifier.6.weight"} <= {
        tensor.name for tensor in model.graph.initializer
    }
    assert all(
        tensor.name in networks.in_torchvisions_names(net, "a")
        or tensor.dims in ([], [1], [2], [4])
        for tensor in model.graph.initializer
    )


class Own(nn.Module):
    """Layers and functions that a network of one's own may use."""

    def __init__(self):
        self.conv, self.norm = nn.Conv(3, 6, 3, stride=2, padding=1, groups=3), nn.BatchNorm(6)
        self.pool, self.mean = (
            nn.Pool(3, stride=2, padding=1, ceil_mode=True, op="maximum"),
            nn.AvgPool2d(2),
        )
        self.activation, self.last = nn.SiLU(), nn.Linear(6, 8)

    def execute(self, x):
        x = self.activation(self.norm(self.conv(x)))
        x = jt.concat(jt.split(self.pool(x), 3, 1), 1)
        x = self.mean(nn.relu6(2 * x - 1)).transpose(0, 2, 3, 1)[:, 1:, 0]
        return nn.softmax(self.last(x.mean(1)), dim=1) / 3


@needs_onnx
def test_a_network_of_ones_own(tmp_path):
    net = networks.MultiHead(Own(), 8)
    net.add_head("a", 5)
    assert_same_logits(of_one_task(net), "mine", 32, tmp_path)


@needs_onnx
def test_a_layer_with_a_hook(tmp_path):
    """From then on Jittor calls every layer of that class in another way."""
    net = networks.MultiHead(Own(), 8)
    net.add_head("a", 5)
    net.trunk.conv.register_pre_forward_hook(lambda layer, given: ((given[0] * 2 + 1,), {}))
    assert_same_logits(of_one_task(net), "mine", 32, tmp_path)


class Odd(Own):
    def execute(self, x):
        return super().execute(x).cumsum(1)


@needs_onnx
def test_what_has_no_form_in_onnx_is_named_and_nothing_is_written(tmp_path):
    net = networks.MultiHead(Odd(), 8)
    net.add_head("a", 5)
    with pytest.raises(
        ConfigError, match=r"cannot be written as ONNX: .*Var.cumsum.*Export it as .safetensors"
    ):
        evaluate.export(of_one_task(net), metadata_of("mine", 32), "a", str(tmp_path / "a.onnx"))
    assert list(tmp_path.iterdir()) == []
    x = jt.array(np.ones((2, 3, 32, 32), np.float32))
    assert (
        isinstance(net.trunk(x), jt.Var) and jt.concat([x, x]).shape[0] == 4
    )  # Jittor is as it was


def test_without_the_package_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"--export a x.onnx: the package onnx writes this format, .*: pip install onnx",
    ):
        evaluate.check_export("a", "x.onnx")
    evaluate.check_export("a", str(tmp_path / "x.pth"))
