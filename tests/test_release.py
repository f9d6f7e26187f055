"""--import-release: packed networks as the authors publish them, built here with PyTorch from
classes of the release's names, become ours:
the logits of every task are PyTorch's own. And what is no such file is refused, executing
nothing."""

import argparse
import collections
import copy
import json
import os
import sys
import types

import numpy as np
import pytest
from conftest import jt, write_images

import evaluate
import main
import storage.release
from dataset import create_dataloader
from reporting.published import Column
from runs.addition import completed
from runs.imported import write_imported
from settings.config import Config
from storage.checkpoint import WeightsError
from storage.packed import load_packed
from storage.pretrained import read_pretrained
from storage.release import read_release

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
from benchmarks import torch_networks

CLASSES = {"imagenet": 5, "cubs_cropped": 3, "stanford_cars_cropped": 3, "flowers": 3}
NAMES = ["imagenet", "cubs", "cars", "flowers"]
KINDS = {
    "vgg16-slim": "ModifiedVGG16",
    "vgg-bn-slim": "ModifiedVGG16BN",
    "resnet-slim": "ModifiedResNet",
    "densenet-slim": "ModifiedDenseNet",
    "vgg16": "ModifiedVGG16",
    "vgg16-bn": "ModifiedVGG16BN",
    "resnet50": "ModifiedResNet",
    "densenet121": "ModifiedDenseNet",
}


class View(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.view(*self.shape)


class Modified(nn.Module):
    """The release's layout of a whole network: `shared`, `classifiers`, `datasets`."""

    def __init__(self, whole, old):
        super().__init__()
        self.datasets, self.classifiers = [], nn.ModuleList()
        self.shared = self.trunk(whole)
        self.classifier = None
        if old:  # torchvision's DenseNet of then
            for module in self.shared.modules():
                if isinstance(module, torch_networks.DenseLayer):
                    module._modules = {
                        f"{name[:4]}.{name[4:]}": child for name, child in module._modules.items()
                    }

    def add_dataset(self, dataset, features, classes):
        self.datasets.append(dataset)
        self.classifiers.append(nn.Linear(features, classes))

    def forward(self, x):
        return self.classifier(self.shared(x).reshape(len(x), -1))


class ModifiedVGG16(Modified):
    def trunk(self, whole):
        layers = list(whole.classifier)[:-1]
        return nn.Sequential(*whole.features, View(-1, layers[0].in_features), *layers)


class ModifiedVGG16BN(ModifiedVGG16):
    def trunk(self, whole):
        """One ReLU in all places: shared.modules() counts it once."""
        shared, relu = super().trunk(whole), nn.ReLU()
        return nn.Sequential(*(relu if isinstance(layer, nn.ReLU) else layer for layer in shared))


class ModifiedResNet(Modified):
    def trunk(self, whole):
        shared = nn.Sequential()
        for name, module in (
            ("conv1", whole.conv1),
            ("bn1", whole.bn1),
            ("relu", nn.ReLU()),
            ("maxpool", nn.MaxPool2d(3, 2, 1)),
            *(
                (name, module)
                for name, module in whole.named_children()
                if name.startswith("layer")
            ),
            ("avgpool", nn.AdaptiveAvgPool2d(1)),
        ):
            shared.add_module(name, module)
        return shared


class ModifiedDenseNet(Modified):
    def trunk(self, whole):
        return whole.features

    def forward(self, x):
        return self.classifier(torch.relu(self.shared(x)).mean((2, 3)))


CLASSES_OF = {
    "networks": (View, ModifiedVGG16, ModifiedVGG16BN, ModifiedResNet, ModifiedDenseNet),
    "torchvision": (),
    "torchvision.models": (),
    "torchvision.models.resnet": (torch_networks.Bottleneck,),
    "torchvision.models.densenet": (torch_networks.DenseLayer, torch_networks.Transition),
}


def layers(shared):
    return {
        number: module
        for number, module in enumerate(shared.modules())
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def built(arch, biases=False, old=False, classes=None, last_unpruned=True):
    """The content of a file of the release: every number drawn, the masks too."""
    generator = torch.manual_seed(3)
    whole = torch_networks.classifier(arch, 2)
    head = (
        whole.fc
        if hasattr(whole, "fc")
        else whole.classifier
        if isinstance(whole.classifier, nn.Linear)
        else whole.classifier[-1]
    )
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in (
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ):
                value.data.uniform_(low, 1.5)
    model = globals()[KINDS[arch]](whole, old)
    classes = classes or CLASSES
    for dataset, count in classes.items():
        model.add_dataset(dataset, head.in_features, count)
    masks = {}
    for number, layer in layers(model.shared).items():
        masks[number] = torch.randint(
            int(last_unpruned), len(classes) + 1, layer.weight.shape, generator=generator
        ).byte()
    content = dict(
        args=argparse.Namespace(dataset=[*classes][-1], train_bn=False, train_biases=biases),
        epoch=3,
        accuracy=88.93,
        errors=[11.07, 2.5],
        previous_masks=masks,
        model=model,
        dataset2idx={dataset: number for number, dataset in enumerate(classes, start=1)},
    )
    if biases:
        content["dataset2biases"] = {
            dataset: {
                number: torch.randn(layer.bias.shape) * 0.1
                for number, layer in layers(model.shared).items()
                if layer.bias is not None
            }
            for dataset in classes
        }
    return content


def logits_of(content, dataset, images):
    """By the release's rules: masks, then biases where there are some, then the head of the data
    set."""
    model, owner = copy.deepcopy(content["model"]).eval(), content["dataset2idx"][dataset]
    for number, layer in layers(model.shared).items():
        mask = content["previous_masks"][number]
        layer.weight.data[(mask == 0) | (mask > owner)] = 0
        if layer.bias is not None and content.get("dataset2biases"):
            layer.bias.data.copy_(content["dataset2biases"][dataset][number])
    model.classifier = model.classifiers[model.datasets.index(dataset)]
    for module in model.modules():
        if isinstance(module, torch_networks.DenseLayer):
            module._modules = {
                name.replace(".", ""): child for name, child in module._modules.items()
            }
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def save(content, path, old, monkeypatch):
    """torch.save, with the classes where the release has them. `old`: as version 0.2 has written
    it."""
    with monkeypatch.context() as patch:
        for module, classes in CLASSES_OF.items():
            fake = types.ModuleType(module)
            patch.setitem(sys.modules, module, fake)
            for kind in classes:
                patch.setattr(kind, "__module__", module)
                setattr(fake, kind.__name__, kind)
        if old:
            patch.setattr(
                torch.Tensor,
                "__reduce_ex__",
                lambda tensor, _: (
                    torch._utils._rebuild_tensor,
                    (
                        tensor._typed_storage(),
                        tensor.storage_offset(),
                        tensor.size(),
                        tensor.stride(),
                    ),
                ),
            )
            patch.setattr(
                nn.Parameter,
                "__reduce_ex__",
                lambda parameter, _: (
                    nn.Parameter,
                    (parameter.data,),
                    (True, False, collections.OrderedDict()),
                ),
            )
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    if old:  # it was saved from a GPU
        path.write_bytes(
            path.read_bytes().replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
        )
    return path


@pytest.fixture
def slim(monkeypatch):
    """The small networks take the places of the release's four."""
    for arch in KINDS:
        if arch.endswith("slim"):
            monkeypatch.setitem(storage.release.NETWORKS, f"networks.{KINDS[arch]}", arch)


def imported(path, folder, root="nowhere"):
    write_imported(read_release(path), path, Config(output_dir=str(folder), data_root=str(root)))
    packed, metadata = load_packed(folder / "packnet.safetensors")
    network = evaluate.network_of(metadata, None, folder)
    return evaluate.unpack(packed, metadata, network, folder), metadata


def assert_equal_logits(packnet, content, size):
    images = np.random.default_rng(1).normal(size=(4, 3, size, size)).astype(np.float32)
    for dataset, task in zip(content["dataset2idx"], NAMES):
        ours, _ = packnet.predict(task, [(jt.array(images), np.zeros(4, np.int32))])
        theirs = logits_of(content, dataset, images)
        assert theirs.std() > 1e-3 and np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max(), (
            dataset
        )


@pytest.mark.parametrize("biases", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("old", [True, False], ids=["0.2", "zip"])
@pytest.mark.parametrize(
    "arch, size",
    [("vgg16-slim", 224), ("vgg-bn-slim", 48), ("resnet-slim", 64), ("densenet-slim", 64)],
)
def test_every_task_gives_pytorchs_logits(arch, size, old, biases, slim, tmp_path, monkeypatch):
    content = built(arch, biases, old, last_unpruned=False)
    packnet, metadata = imported(
        save(content, tmp_path / "csf.pt", old, monkeypatch), tmp_path / "out"
    )
    assert_equal_logits(packnet, content, size)
    assert [entry["name"] for entry in metadata["tasks"]] == NAMES and metadata["arch"] == arch
    # the others have no biases in their trunk
    assert metadata["config"]["train_biases"] == (biases and arch.startswith("vgg"))
    assert [metadata["tasks"][-1][key] for key in ("top1", "top5")] == pytest.approx(
        [88.93, 97.5]
    ) and metadata["tasks"][0]["top1"] is None
    counts = [
        np.mean([(mask == k).float().mean() for mask in content["previous_masks"].values()])
        for k in range(5)
    ]
    assert min(counts) > 0.1
    total = sum(mask.numel() for mask in content["previous_masks"].values())
    base = sum(int((mask == 1).sum()) for mask in content["previous_masks"].values()) / total
    assert metadata["config"]["initial_pruning_ratio"] == pytest.approx(1 - base, abs=1e-4)


@pytest.mark.slow  # half a gigabyte and more each
@pytest.mark.parametrize("arch", ["vgg16", "vgg16-bn", "resnet50", "densenet121"])
def test_the_papers_networks_at_full_size(arch, tmp_path, monkeypatch):
    content = built(
        arch,
        old=True,
        classes={
            "imagenet": 1000,
            "cubs_cropped": 200,
            "stanford_cars_cropped": 196,
            "flowers": 102,
        },
    )
    packnet, _ = imported(save(content, tmp_path / "csf.pt", True, monkeypatch), tmp_path / "out")
    assert_equal_logits(packnet, content, 224)


# ---- from the command line


@pytest.fixture
def csf(slim, tmp_path, monkeypatch):
    content = built("vgg16-slim", biases=True, old=True)
    return content, save(content, tmp_path / "csf.pt", True, monkeypatch)


def test_what_was_imported_is_measured_sealed_and_added_to(
    csf, image_root, tmp_path, capsys, monkeypatch
):
    content, path = csf
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            "reporting.published.COLUMNS",
            {"authors' release, VGG-16": Column("vgg16-slim", dict(cubs=22.56, imagenet=29.19))},
        )
        assert (
            evaluate.main(
                ["--import-release", "csf.pt", "--output-dir", "theirs", "--data-root", "data"]
            )
            == 0
        )
        told = capsys.readouterr().out
        assert (
            "vgg16-slim, 4 tasks, each with biases of its own" in told
            and "theirs/packnet.safetensors" in told
        )
        assert (
            "flowers        pruned by 0 %, 3 classes, their names from the data" in told
            and "5 classes, without names" in told
        )
        assert evaluate.main(["--output-dir", "theirs"]) == 0
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert table["imagenet"][:3] == ["-", "-", "-"]
    for dataset, task in zip(CLASSES, NAMES):
        if task != "imagenet":
            ((images, labels),) = create_dataloader(task, "data", "test", 32)[0]
            top1 = (
                100
                * (logits_of(content, dataset, images.numpy()).argmax(1) == labels.numpy()).mean()
            )
            assert float(table[task][0]) == pytest.approx(top1, abs=0.01) and float(
                table[task][3]
            ) == pytest.approx(100 - top1, abs=0.01)
    assert (
        table["cubs"][4] == "22.56" and table["cars"][4] == "-" and table["flowers"][2] == "88.93"
    )
    assert (
        evaluate.main(["--output-dir", "theirs", "--seals"]) == 0
        and "4 tasks: seals unchanged" in capsys.readouterr().out
    )

    for split in ("train", "test"):
        write_images(image_root / "my_birds" / split, {"wren": 3, "owl": 3})
    quick = ["--num-epochs-per-task", "1", "--num-epochs-finetune", "1", "--device", "cpu"]
    add = ["--add-to", "theirs", "--task-list", "my_birds", "--output-dir", "with_birds", *quick]
    assert (
        main.main(add) == 2
        and "no weight is free, since flowers kept all that were left" in capsys.readouterr().err
    )
    assert main.main([*add, "--prune-last", "0.5"]) == 0
    results = json.loads((tmp_path / "with_birds/results.json").read_text())
    assert (
        results["earlier"] == NAMES
        and results["config"]["keep"] == "last"
        and results["config"]["crop"] == "resized"
    )
    assert [task["max_logit_change"] for task in results["tasks"][:2]] == [
        0.0,
        0.0,
    ] and "imagenet" in results["seals_unchanged"]
    import report

    assert report.main(["--runs", "with_birds", "--out", "page"]) == 0
    assert "| cubs | " in (tmp_path / "page/report.md").read_text()
    before, after = (
        load_packed(tmp_path / folder / "packnet.safetensors")[1]["tasks"]
        for folder in ("theirs", "with_birds")
    )
    assert before[:3] == after[:3]

    # By what its images are recognised comes later, where a task's data are.
    assert "`--portraits` adds that where a task's data are." in told
    capsys.readouterr()
    assert evaluate.main(["--output-dir", "theirs", "--portraits"]) == 0
    told = capsys.readouterr().out
    assert told.count("portrait made") == 3 and "imagenet       no data, no portrait" in told
    assert evaluate.main(["--output-dir", "theirs", "--seals"]) == 0
    image = str(next((image_root / "cubs_cropped/test").rglob("*.jpg")))
    capsys.readouterr()
    assert evaluate.main(["--output-dir", "theirs", "--predict", image]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{image}: ") and told.err.startswith("No portrait: imagenet;")


@pytest.mark.parametrize(
    "errors, top1, top5", [([0.0, 0.0], 100, 100), ([11.0], 89, None), ([None, 2.5], None, 97.5)]
)
def test_an_error_of_nothing_is_an_accuracy_of_all(errors, top1, top5, slim, tmp_path, monkeypatch):
    release = read_release(
        save(built("vgg-bn-slim") | dict(errors=errors), tmp_path / "csf.pt", False, monkeypatch)
    )
    assert (release.top1, release.top5) == (top1, top5)


def test_free_weights_are_taken_at_once(slim, tmp_path, monkeypatch):
    """The release's pruned ImageNet network alone is a base to go on from."""
    content = built("vgg-bn-slim", classes={"imagenet": 5}, last_unpruned=False)
    packnet, metadata = imported(
        save(content, tmp_path / "base.pt", False, monkeypatch), tmp_path / "out"
    )
    assert packnet.tasks == ["imagenet"] and 0.4 < metadata["config"]["initial_pruning_ratio"] < 0.6
    for name, weight in packnet.weights.items():
        assert ((weight.numpy() == 0) == (packnet.owners[name].numpy() == 0)).all()
    settings = completed(dict(add_to=str(tmp_path / "out"), task_list=["cubs"]))
    Config(**settings).check_values()


def test_batch_norm_of_each_task_is_the_lasts_only(slim, tmp_path, monkeypatch, capsys):
    content = built("vgg-bn-slim")
    content["args"].train_bn = True
    save(content, tmp_path / "csf.pt", True, monkeypatch)
    assert (
        evaluate.main(
            ["--import-release", str(tmp_path / "csf.pt"), "--output-dir", str(tmp_path / "out")]
        )
        == 0
    )
    error = capsys.readouterr().err
    assert (
        "holds the last task's only, that of flowers: the other tasks are right in their own "
        "files alone" in error
    )


# ---- what is refused


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['EVIL']}",)


@pytest.mark.parametrize("old", [True, False], ids=["0.2", "zip"])
@pytest.mark.parametrize("place", ["epoch", "model", "module"])
def test_nothing_in_the_file_is_executed(slim, tmp_path, monkeypatch, capsys, old, place):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    content = built("vgg-bn-slim")
    if place == "module":
        content["model"].shared.add_module("evil", nn.ReLU())
        content["model"].shared.evil.hidden = Evil()
    else:
        content[place] = Evil()
    save(content, tmp_path / "evil.pt", old, monkeypatch)
    assert (
        evaluate.main(
            ["--import-release", str(tmp_path / "evil.pt"), "--output-dir", str(tmp_path / "out")]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "evil.pt: refused: asks for posix.system" in error
    assert not (tmp_path / "evil").exists() and not (tmp_path / "out").exists()
    with pytest.raises(WeightsError, match="refused"):  # pretrained weights have no modules either
        read_pretrained(tmp_path / "evil.pt")


def spoil_owner(content):
    content["previous_masks"][1] = content["previous_masks"][1][:1]


def spoil_count(content):
    content["previous_masks"][1][0] = 9


def spoil_order(content):
    content["dataset2idx"]["flowers"] = 7


def spoil_biases(content):
    del content["dataset2biases"]["imagenet"]


def spoil_masks(content):
    del content["previous_masks"][1]


def spoil_layer(content):
    content["model"].shared.add_module("7", nn.Linear(3, 4))


def spoil_kind(content):
    content["model"] = nn.Linear(2, 2)


def spoil_everything(content):
    [content.pop(key) for key in ("previous_masks", "args")]


def spoil_args(content):
    content["args"].disable_pruning_mask = True


@pytest.mark.parametrize(
    "spoil, message",
    [
        (spoil_owner, "the owners of trunk.features.0.weight do not fit it"),
        (spoil_count, "the owners of trunk.features.0.weight"),
        (spoil_order, "its owners are not those of the tasks 1, 2, ..."),
        (spoil_biases, "those of imagenet are missing"),
        (spoil_masks, "the owner map of trunk.features.0.weight is missing"),
        (spoil_layer, "does not fit the network"),
        (
            spoil_kind,
            "holds a network torch.nn.modules.linear.Linear; the release's are "
            "networks.ModifiedVGG16",
        ),
        (
            spoil_everything,
            "not a packed network of the authors' release (KeyError: 'previous_masks')",
        ),
        (spoil_args, "an individual network of the release, not a packed one"),
    ],
)
def test_what_is_no_packed_network_of_the_release_is_refused(
    slim, tmp_path, monkeypatch, capsys, spoil, message
):
    content = built("vgg-bn-slim", biases=True)
    spoil(content)
    save(content, tmp_path / "x.pt", True, monkeypatch)
    assert (
        evaluate.main(
            ["--import-release", str(tmp_path / "x.pt"), "--output-dir", str(tmp_path / "out")]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        message in error
        and error.startswith(f"error: {tmp_path}/x.pt: ")
        and error.count("\n") == 1
    ), error
    assert not (tmp_path / "out").exists()


def test_another_kind_of_file_is_not_called_a_truncated_one(tmp_path, capsys):
    (tmp_path / "x.pt").write_text("# PackNet in Jittor\n")
    assert evaluate.main(["--import-release", f"{tmp_path}/x.pt", "--output-dir", "nowhere"]) == 2
    assert "x.pt: is text, not weights" in capsys.readouterr().err


def test_a_run_is_not_overwritten_and_the_datas_classes_must_fit(csf, image_root, tmp_path, capsys):
    _, path = csf
    command = [
        "--import-release",
        str(path),
        "--output-dir",
        str(tmp_path / "out"),
        "--data-root",
        str(image_root),
    ]
    write_images(image_root / "flowers/train", {"d": 1})
    write_images(image_root / "flowers/test", {"d": 1})
    assert evaluate.main(command) == 2
    assert (
        "flowers: has 4 classes, the network 3" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out/log.txt").write_text("a run")
    assert (
        evaluate.main(command) == 2 and "holds a run already (log.txt)" in capsys.readouterr().err
    )
    assert (
        evaluate.main(
            ["--import-release", str(tmp_path / "none.pt"), "--output-dir", str(tmp_path / "new")]
        )
        == 2
    )
    assert "none.pt: cannot be read (No such file or directory)" in capsys.readouterr().err
