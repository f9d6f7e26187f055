"""The seal of a task: follows from what its forward pass uses, all of it, and from nothing else."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, jt
from safetensors import SafetensorError
from safetensors.numpy import load_file
from test_networks import batches, random_network

import evaluate
import networks
from images.preprocess import preparation_of
from pruning import PackNet
from runs.log import Log
from runs.network import contents
from runs.results import Results, TrainingError
from runs.stage import Stage
from settings.config import Config
from storage import seals
from storage.checkpoint import WeightsError
from storage.packed import load_packed, save_packed

nn = jt.nn
TASKS = "abc"
OWN = dict(train_biases=True, train_bn=True)


def packed_network(options):
    packnet = PackNet(random_network("vgg-bn-slim", TASKS), 0.5, **options)
    for number, task in enumerate(TASKS):
        packnet.train_task(task, batches(number), 1, lr=0.01)
        packnet.prune(task)
    return packnet


def entries_of(packed):
    entries = [
        dict(
            name=task,
            num_classes=5,
            classes=[f"{task}{i}" for i in range(5)],
            input=preparation_of(task, 48).plain(),
        )
        for task in TASKS
    ]
    for number, entry in enumerate(entries):
        entry["seal"] = seals.of_task(packed, entries, number)
    return entries


@pytest.fixture(scope="module", params=[{}, OWN], ids=["shared", "own"])
def sealed(request, tmp_path_factory):
    """(the network, the packed file, its metadata)"""
    packnet, path = (
        packed_network(request.param),
        tmp_path_factory.mktemp("sealed") / "packnet.safetensors",
    )
    packed = contents(packnet)
    metadata = dict(arch="vgg-bn-slim", image_size=48, tasks=entries_of(packed), config={})
    save_packed(path, packed, metadata)
    return packnet, path, metadata


def flip(path, out, tensor, index):
    """A copy of the file in which the lowest bit of one element's last byte is another."""
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", data[:8])
    begin = json.loads(data[8 : 8 + size])[tensor]["data_offsets"][0]
    data[8 + size + begin + index] ^= 1
    out.write_bytes(data)
    return out


def test_the_seal_is_that_of_the_view_jittor_computes_with(sealed):
    packnet, _, metadata = sealed
    for entry in metadata["tasks"]:
        with packnet.task_view(entry["name"]) as net:
            arrays = {
                name.replace(f"heads.{entry['name']}.", "head."): parameter.numpy()
                for name, parameter in net.state_dict().items()
                if name.startswith(("trunk.", f"heads.{entry['name']}."))
            }
        assert seals.of_view(sorted(arrays.items()), entry) == entry["seal"]
    assert len({entry["seal"] for entry in metadata["tasks"]}) == 3


def test_the_docstring_says_how_to_compute_it(sealed, tmp_path, monkeypatch):
    """Its lines, carried out as they stand; and of a network that is not what it was, they fail."""
    packnet, _, metadata = sealed
    lines = [line[4:] for line in seals.__doc__.splitlines() if line.startswith("    ")]
    assert len(lines) < 13
    monkeypatch.chdir(tmp_path)
    for number, task in enumerate(TASKS):
        evaluate.export(packnet, metadata, task, "cubs.safetensors")
        exec("\n".join(lines), {})
        seal = metadata["tasks"][number]["seal"]
        assert seals.recomputed("cubs.safetensors") == [(task, seal, seal)]
    flip(tmp_path / "cubs.safetensors", tmp_path / "cubs.safetensors", "classifier.3.weight", 0)
    with pytest.raises(AssertionError):
        exec("\n".join(lines), {})
    assert evaluate.main(["--seals", "cubs.safetensors"]) == 1


def test_an_exported_and_a_packed_file_are_pretrained_weights(sealed, tmp_path):
    """Of a packed file, the network of its first task."""
    packnet, path, metadata = sealed
    evaluate.export(packnet, metadata, "a", str(tmp_path / "a.safetensors"))
    evaluate.export(packnet, metadata, "c", str(tmp_path / "c.safetensors"))
    for file, task in (
        (tmp_path / "a.safetensors", "a"),
        (tmp_path / "c.safetensors", "c"),
        (path, "a"),
    ):
        net = networks.build("vgg-bn-slim")
        networks.load_pretrained(net, file, task)
        with packnet.task_view(task) as view:
            for name, parameter in net.state_dict().items():
                assert np.array_equal(parameter.numpy(), view.state_dict()[name].numpy()), name


def test_an_exported_network_is_written_as_a_packed_one_is(sealed, tmp_path, monkeypatch):
    packnet, _, metadata = sealed
    out = tmp_path / "cubs.safetensors"
    evaluate.export(packnet, metadata, "a", str(out))
    before = out.read_bytes()
    assert out.stat().st_mode & 0o777 == 0o666 & ~(os.umask(0o022) or 0o022)

    def full(*_):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(
        OSError,
        match=r"cubs.safetensors: cannot be written \(I/O error: .*\); [\d,]+ bytes are needed",
    ):
        evaluate.export(packnet, metadata, "a", str(out))
    assert out.read_bytes() == before and os.listdir(tmp_path) == [out.name]


def test_a_file_that_is_there_is_not_exported_over(sealed, tmp_path, capsys):
    path = shutil.copy(sealed[1], tmp_path / "packnet.safetensors")
    assert evaluate.main(["--output-dir", str(tmp_path), "--export", "a", str(path)]) == 2
    assert (
        f"--export a {path}: the file is there already, and never overwritten"
        in capsys.readouterr().err
    )
    assert path.read_bytes() == sealed[1].read_bytes()


def test_an_export_as_pth_is_what_pytorch_loads(sealed, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    packnet, _, metadata = sealed
    for task in TASKS:
        evaluate.export(packnet, metadata, task, str(tmp_path / f"{task}.safetensors"))
        evaluate.export(packnet, metadata, task, str(tmp_path / f"{task}.pth"))
        tensors, state = (
            load_file(tmp_path / f"{task}.safetensors"),
            torch.load(tmp_path / f"{task}.pth", weights_only=True),
        )
        assert tensors.keys() == state.keys()
        for name, tensor in state.items():
            assert (
                np.array_equal(tensor.numpy(), tensors[name])
                and tensor.numpy().dtype == tensors[name].dtype
            ), name


@pytest.mark.parametrize("name", ["x.bin", "x", "x.pt", "x.safetensors.gz"])
def test_another_ending_is_refused(sealed, tmp_path, capsys, name):
    path = shutil.copy(sealed[1], tmp_path / "packnet.safetensors")
    assert (
        evaluate.main(["--output-dir", str(tmp_path), "--export", "a", str(tmp_path / name)]) == 2
    )
    assert (
        f"--export a {tmp_path / name}: the name must end in one of .safetensors, .pth, .onnx"
        in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_layer_of_the_trunk_that_is_called_head_is_exported_too(tmp_path):
    """Of a network that gives features, whose tasks' heads have no name in it."""
    trunk = nn.Sequential(nn.Conv(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    trunk.add_module("head", nn.Linear(4, 7))
    net = networks.MultiHead(trunk, 7)
    net.add_head("a", 5)
    packnet = PackNet(net)
    packnet.start_task("a")
    entry = dict(name="a", num_classes=5, classes=None, input={})
    entry["seal"] = seals.of_task(contents(packnet), [entry], 0)
    evaluate.export(
        packnet,
        dict(arch="mine", image_size=8, tasks=[entry]),
        "a",
        str(tmp_path / "a.safetensors"),
    )
    tensors = load_file(tmp_path / "a.safetensors")
    assert {name: array.shape for name, array in tensors.items() if "head" in name} == {
        "head.weight": (7, 4),
        "head.bias": (7,),
        "head_.weight": (5, 7),
        "head_.bias": (5,),
    }
    assert seals.recomputed(tmp_path / "a.safetensors") == [("a", entry["seal"], entry["seal"])]


def test_a_flipped_weight_breaks_its_owner_and_all_later_tasks(sealed, tmp_path, capsys):
    _, path, metadata = sealed
    packed, _ = load_packed(path)
    name = "trunk.classifier.0.weight"
    for owner, broken in ((1, "abc"), (2, "bc"), (3, "c"), (0, "")):
        index = int(np.flatnonzero(packed.owners[name].ravel() == owner)[0])
        out = flip(path, tmp_path / "flipped.safetensors", name, 4 * index)
        with pytest.raises(WeightsError, match="damaged"):
            load_packed(out)
        assert evaluate.main(["--seals", str(out)]) == (1 if broken else 0)
        *lines, last = capsys.readouterr().out.splitlines()
        assert [line[0] for line in lines if "BROKEN" in line] == list(broken)
        assert [line[0] for line in lines if line.endswith("unchanged")] == [
            task for task in TASKS if task not in broken
        ]
        assert last == "3 tasks: " + (
            f"{len(broken)} not what they were: {', '.join(broken)}"
            if broken
            else "seals unchanged"
        )


@pytest.mark.parametrize(
    "tensor, breaks",
    [
        ("heads.b.weight", "b"),
        ("heads.b.bias", "b"),
        ("owner.trunk.classifier.0.weight", None),
        ("private.b.trunk.features.0.bias", "b"),
        ("private.b.trunk.features.1.running_var", "b"),
        ("trunk.features.1.running_var", None),
    ],
)
def test_everything_that_a_view_uses_is_sealed(sealed, tmp_path, tensor, breaks):
    packnet, path, _ = sealed
    own = bool(packnet.own_parameters())
    if tensor.startswith("private.") and not own:
        pytest.skip("nothing private")
    found = "".join(
        task
        for task, stored, now in seals.recomputed(flip(path, tmp_path / "x", tensor, 0))
        if now != stored
    )
    if tensor.startswith("trunk."):  # shared by all, or the last task's
        assert found == ("c" if own else "abc")
    else:
        assert found == breaks or breaks is None and found


def test_class_names_and_input_are_sealed(sealed):
    _, path, metadata = sealed
    packed, _ = load_packed(path)
    for change in (
        dict(classes=["x"]),
        dict(classes=None),
        dict(input=preparation_of("b", 64).plain()),
        dict(input=preparation_of("cubs", 48).plain()),
    ):
        entries = json.loads(json.dumps(metadata["tasks"]))
        entries[1].update(change)
        assert seals.broken(packed, entries) == ["b"]
    entries = json.loads(json.dumps(metadata["tasks"]))
    entries[1].update(top1=3.0)  # no part of what a forward pass uses
    assert seals.broken(packed, entries) == []


def test_seals_need_neither_jittor_nor_data(sealed, tmp_path):
    (tmp_path / "packnet.safetensors").write_bytes(sealed[1].read_bytes())
    code = (
        "import sys, evaluate; code = evaluate.main(sys.argv[1:]); sys.exit(code if 'jittor' "
        "not in sys.modules else 'Jittor')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--output-dir", tmp_path, "--seals"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "3 tasks: seals unchanged", (
        done.stderr
    )


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_what_has_no_seals_is_one_line(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    assert evaluate.main(["--seals", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert re.match(rf"error: {tmp_path}/x: .*\n$", error)


def test_a_folder_is_its_packed_file(sealed, tmp_path, capsys):
    """As of --add-to."""
    assert evaluate.main(["--seals", str(sealed[1].parent)]) == 0
    assert "seals unchanged" in capsys.readouterr().out
    assert evaluate.main(["--seals", str(tmp_path)]) == 2
    assert f"{tmp_path}/packnet.safetensors: no such file" in capsys.readouterr().err


def test_a_folder_without_a_packed_network_names_those_with_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([]) == 2
    error = capsys.readouterr().err
    assert "--output-dir checkpoints/packnet: holds no packnet.safetensors" in error
    assert "`python main.py --demo`" in error
    for name in "abcd":
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "packnet.safetensors").touch()
    assert evaluate.main([]) == 2
    assert "There is one in checkpoints/a, checkpoints/b, checkpoints/c, ...." in (
        capsys.readouterr().err
    )


def test_a_packed_file_without_seals_is_one_line(sealed, tmp_path, capsys):
    packed, metadata = load_packed(sealed[1])
    del metadata["tasks"][1]["seal"]
    save_packed(tmp_path / "x", packed, metadata)
    assert evaluate.main(["--seals", str(tmp_path / "x")]) == 2
    assert "x: not a checkpoint of this version (KeyError: 'seal')" in capsys.readouterr().err


def test_a_run_goes_no_further_with_a_broken_seal(sealed, tmp_path):
    """Something has moved an earlier task: nothing is written over it."""
    packed, metadata = load_packed(sealed[1])
    results = Results(Config(image_size=48), {}, Log(tmp_path / "log.txt"))
    results.entries = metadata["tasks"][:2]
    results.stages = [
        Stage("a", 3),
        Stage("b", 4),
        Stage("c", 5, pruning_ratio=0.5, still_zero=0.0),
    ]
    moved = next(name for name in packed.owners)
    before = packed.parameters[moved].copy()
    packed.parameters[moved] = before + (packed.owners[moved] == 2)
    with pytest.raises(TrainingError, match="c: the seals of b are broken"):
        results.sealed(packed)
    # its own weights, which are not sealed yet
    packed.parameters[moved] = before + (packed.owners[moved] == 3)
    results.sealed(packed)
    assert [entry["name"] for entry in results.entries] == ["a", "b", "c"]
    assert (tmp_path / "log.txt").read_text() == "2 earlier tasks: seals unchanged\n"


def test_class_names_that_no_terminal_can_show_are_shown_all_the_same(sealed, tmp_path, capsys):
    """A folder that is called so on the disk, of bytes that are no UTF-8."""
    from PIL import Image

    packed, metadata = load_packed(sealed[1])
    metadata["tasks"][0]["classes"] = [f"caf\udce9{i}" for i in range(5)]
    own = bool(packed.private["a"])
    metadata["config"] = Config(
        arch="vgg-bn-slim",
        image_size=48,
        base_task="a",
        task_list=["b", "c"],
        train_biases=own,
        train_bn=own,
    ).asdict()
    save_packed(tmp_path / "packnet.safetensors", packed, metadata)
    image = tmp_path / "bird\udce9.jpg"
    Image.new("RGB", (60, 50), (9, 99, 200)).save(image, "JPEG")
    for how in (["--task", "a"], []):
        assert evaluate.main(["--output-dir", str(tmp_path), *how, "--predict", str(image)]) == 0
        assert r"bird\udce9.jpg" in capsys.readouterr().out
    assert (
        evaluate.main(["--output-dir", str(tmp_path), "--task", "a", "--predict", str(image)]) == 0
    )
    assert r"caf\udce9" in capsys.readouterr().out
