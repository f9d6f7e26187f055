"""The paper's networks: their prunable weights, their logits against PyTorch, and old tasks that
stay to the bit in each."""

import numpy as np
import pytest
from conftest import jt, prunable_weights

import networks
from pruning import PackNet
from runs.network import contents

nn = jt.nn
SLIM = ["vgg-slim", "vgg-bn-slim", "resnet-slim", "densenet-slim"]


@pytest.mark.parametrize(
    "arch, layers, weights", [("resnet50", 53, 23_454_912), ("densenet121", 120, 6_870_208)]
)
def test_every_convolution_is_prunable_and_nothing_else(arch, layers, weights):
    """Counts from the published totals: ResNet-50 25,557,032 = convolutions + 53,120 of batch norm
    + 2,049,000 of the head; DenseNet-121 7,978,856 = convolutions + 83,648 + 1,025,000."""
    net = networks.build(arch)
    net.add_head("a", 10)
    found = prunable_weights(net)
    assert len(found) == layers and sum(weight.numel() for weight in found.values()) == weights
    assert all(len(weight.shape) == 4 for weight in found.values())


def test_vgg16_bn_has_torchvisions_names():
    names = networks.build("vgg-bn-slim").state_dict().keys()
    assert {
        "trunk.features.0.weight",
        "trunk.features.0.bias",
        "trunk.features.1.running_var",
        "trunk.features.4.weight",
    } <= set(names)


def random_network(arch, tasks=("a", "b")):
    """A network whose batch norm does something."""
    jt.set_global_seed(3)
    net = networks.build(arch)
    for task in tasks:
        net.add_head(task, 5)
    rng = np.random.default_rng(4)
    for name, parameter in net.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            parameter.assign(
                jt.array(rng.normal(0, 0.1, parameter.shape).astype(np.float32)).stop_grad()
                if parameter.is_stop_grad()
                else jt.array(rng.normal(0, 0.1, parameter.shape).astype(np.float32))
            )
        elif "running_var" in name:
            parameter.assign(
                jt.array(rng.uniform(0.5, 2, parameter.shape).astype(np.float32)).stop_grad()
            )
    jt.sync_all()
    return net


def batches(seed, count=4):
    rng = np.random.default_rng(seed)
    return [
        (
            jt.array(rng.normal(size=(6, 3, 48, 48)).astype(np.float32)),
            jt.array(rng.integers(0, 5, 6)),
        )
        for _ in range(count)
    ]


def torch_logits(arch, tensors, images):
    """The forward pass in plain PyTorch, from torchvision's parameter names: none may be missing,
    none left over."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_networks import classifier

    net = classifier(arch, len(tensors[f"{networks.ARCHITECTURES[arch].last}.bias"]))
    counters = {
        name: value
        for name, value in net.state_dict().items()
        if name.endswith("num_batches_tracked")
    }  # Jittor has none
    net.load_state_dict(
        {name: torch.from_numpy(array) for name, array in tensors.items()} | counters
    )
    with torch.no_grad():
        return net.eval()(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("arch", SLIM)
def test_an_exported_task_gives_the_same_logits_in_pytorch(arch, tmp_path):
    from safetensors.numpy import load_file

    import evaluate

    net = random_network(arch)
    packnet = PackNet(net)
    packnet.train_task("a", batches(0), 1, lr=1e-3)
    packnet.prune("a", 0.5)
    packnet.train_task("b", batches(1), 1, lr=1e-3)
    metadata = dict(
        arch=arch,
        image_size=48,
        tasks=[dict(name=task, classes=list("vwxyz"), input={}, seal="") for task in "ab"],
    )
    for task in "ab":
        ours, _ = packnet.predict(task, batches(2))
        evaluate.export(packnet, metadata, task, str(tmp_path / "out.safetensors"))
        tensors = load_file(tmp_path / "out.safetensors")
        theirs = np.concatenate(
            [torch_logits(arch, tensors, images.numpy()) for images, _ in batches(2)]
        )
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max(), task
        assert not any(name.startswith(("trunk", "heads")) for name in tensors)


@pytest.mark.parametrize(
    "arch, side",
    [
        ("resnet50", 64),
        ("densenet121", 64),
        ("vgg16-bn", 224),
        ("mobilenet_v2", 64),
        ("vit_b_16", 224),
    ],
)
def test_the_full_networks_give_pytorchs_logits(arch, side):
    """With torchvision's layers: ResNet's stride in the 3x3 convolution, DenseNet's order of norm,
    relu and convolution."""
    net = random_network(arch, tasks="a")
    net.select("a")
    net.eval()
    images = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    last = networks.ARCHITECTURES[arch].last
    tensors = {
        name.removeprefix("trunk.").replace("heads.a", last): parameter.numpy()
        for name, parameter in net.state_dict().items()
    }
    ours, theirs = net(jt.array(images)).numpy(), torch_logits(arch, tensors, images)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


# ---- frozen to the bit, in each network and with each option


@pytest.mark.parametrize(
    "arch, options",
    [
        *((arch, {}) for arch in SLIM),
        ("vgg-bn-slim", dict(train_biases=True, train_bn=True)),
        ("vgg-bn-slim", dict(free_weights=0.1)),
    ],
    ids=str,
)
def test_old_tasks_stay_to_the_bit(arch, options):
    """Momentum, weight decay and batch norm in training mode for the second and third task."""
    net = random_network(arch, tasks="abc")
    packnet = PackNet(net, 0.5, **options)
    kept = {}
    for number, task in enumerate("abc"):
        packnet.train_task(task, batches(number), 1, lr=0.01, momentum=0.9, weight_decay=1e-2)
        packnet.prune_and_freeze(task)
        packnet.train_task(task, batches(number), 1, lr=0.01, momentum=0.9, weight_decay=1e-2)
        kept[task] = packnet.predict(task, batches(9))[0]
        for earlier, logits in kept.items():
            assert np.array_equal(packnet.predict(earlier, batches(9))[0], logits), (earlier, task)
    assert not np.array_equal(kept["a"], kept["b"])


def test_shared_biases_and_batch_norm_do_not_move_after_the_first_task():
    net = random_network("vgg-bn-slim")
    packnet = PackNet(net, 0.5)
    packnet.train_task("a", batches(0), 1, lr=0.01)
    packnet.prune("a")
    before = {name: parameter.numpy() for name, parameter in net.state_dict().items()}
    packnet.train_task("b", batches(1), 2, lr=0.01, momentum=0.9, weight_decay=1e-2)
    for name, parameter in net.state_dict().items():
        if name not in packnet.layers and not name.startswith("heads.b."):
            assert np.array_equal(parameter.numpy(), before[name]), name


@pytest.mark.parametrize(
    "options, own",
    [
        (dict(train_biases=True), {"trunk.features.0.bias", "trunk.classifier.3.bias"}),
        (
            dict(train_bn=True),
            {
                "trunk.features.1.weight",
                "trunk.features.1.bias",
                "trunk.features.1.running_mean",
                "trunk.features.1.running_var",
            },
        ),
    ],
    ids=["biases", "batch norm"],
)
def test_what_a_task_has_of_its_own_is_trained_stored_and_put_back(options, own):
    net = random_network("vgg-bn-slim")
    packnet = PackNet(net, 0.5, **options)
    packnet.train_task("a", batches(0), 1, lr=0.01)
    packnet.prune("a")
    first = {name: parameter.numpy() for name, parameter in net.state_dict().items()}
    assert own <= packnet.own_parameters().keys()
    packnet.train_task("b", batches(1), 2, lr=0.01)
    for name, parameter in net.state_dict().items():
        if name in own:
            assert not np.array_equal(parameter.numpy(), first[name]), f"{name} was not trained"
            assert np.array_equal(packnet.private["a"][name].numpy(), first[name])
    with packnet.task_view("a") as view:
        assert all(np.array_equal(view.state_dict()[name].numpy(), first[name]) for name in own)
    others = {
        name for name in first if "bias" in name and "heads" not in name
    } - packnet.own_parameters().keys()
    for name in others:
        assert np.array_equal(net.state_dict()[name].numpy(), first[name]), (
            f"{name} is shared and moved"
        )

    packed = contents(packnet)
    again = PackNet(random_network("vgg-bn-slim"), 0.5, **options)
    networks.assign(again.model, packed.parameters, "x")
    again.restore(["a", "b"], packed.owners, private=packed.private)
    for task in "ab":
        assert np.array_equal(
            again.predict(task, batches(9))[0], packnet.predict(task, batches(9))[0]
        )
    with pytest.raises(ValueError, match="has of its own are missing"):
        again.restore(["a", "b"], packed.owners)


def test_free_weights_start_from_zero_or_at_random():
    for fresh in (0.0, 0.1, 1.0):
        packnet = PackNet(random_network("vgg-slim"), 0.75, free_weights=fresh)
        packnet.start_task("a")
        packnet.prune("a")
        packnet.start_task("b")
        for name, weight in packnet.weights.items():
            mine = weight.numpy()[packnet.owners[name].numpy() == 2]
            expected = fresh * (2 / np.prod(weight.shape[1:])) ** 0.5
            assert mine.std() == pytest.approx(expected, rel=0.15), name
        assert fresh or all(
            (weight.numpy()[packnet.owners[name].numpy() == 2] == 0).all()
            for name, weight in packnet.weights.items()
        )


# ---- pretrained weights


@pytest.mark.parametrize("arch", ["vgg-bn-slim", "resnet-slim", "densenet-slim"])
def test_torchvisions_weights_load_into_every_network(arch, tmp_path):
    torch = pytest.importorskip("torch")
    last = networks.ARCHITECTURES[arch].last
    source = random_network(arch, tasks=["a"])
    tensors = {
        name.removeprefix("trunk.").replace("heads.a", last): parameter.numpy()
        for name, parameter in source.state_dict().items()
    }
    content = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2")
        if "denselayer" in name
        else name: torch.from_numpy(array)
        for name, array in tensors.items()
    }
    content |= {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(7)
        for name in tensors
        if "running_var" in name
    }
    torch.save(content, tmp_path / "weights.pth")
    net = networks.build(arch)
    networks.load_pretrained(net, tmp_path / "weights.pth", "a", last)
    for name, parameter in net.state_dict().items():
        assert np.array_equal(parameter.numpy(), source.state_dict()[name].numpy()), name
