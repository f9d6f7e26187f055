"""Networks from the command line that are not the paper's: the zoo's, the vision transformer, a
file of the user's own, --dry-run."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, write_images
from safetensors.numpy import load_file
from test_archs import PLAIN, torch_vit, write

import evaluate
import main
import training
from dataset import create_dataloader
from images import drawings
from networks import ARCHITECTURES
from settings.config import ConfigError
from storage.checkpoint import load_metadata
from storage.packed import load_packed, save_packed
from trunks import own


@pytest.fixture
def data(tmp_path):
    for number, name in enumerate(("base", "one", "two")):
        for split, count in (("train", 4), ("test", 2)):
            write_images(
                tmp_path / "data" / name / split, {label: count for label in "abc"}, seed=number
            )
    return tmp_path / "data"


def options(data, output, *more):
    return [
        "--data-root",
        str(data),
        "--output-dir",
        str(output),
        *"""
            --base-task base --task-list one two --num-epochs-base 1 --num-epochs-base-finetune 1
            --num-epochs-per-task 1 --num-epochs-finetune 1 --batch-size 4 --initial-lr 0.01
            --weight-decay 1e-3
        """.split(),
        *map(str, more),
    ]


def results_of(output):
    return json.loads((output / "results.json").read_text())


@pytest.mark.parametrize(
    "arch, more",
    [
        ("squeezenet1_1", ["--image-size", "40"]),
        pytest.param(
            "vgg16-slim",
            ["--image-size", "32", "--baselines", "lwf"],
            marks=pytest.mark.slow,  # test_main.py has it at 224 x 224
        ),
    ],
)
def test_a_whole_run_of_another_network(data, tmp_path, arch, more, capsys):
    assert main.main(options(data, tmp_path / "out", "--arch", arch, *more)) == 0
    results = results_of(tmp_path / "out")
    assert (
        results["finished"]
        and [stage["max_logit_change"] for stage in (results["base"], *results["tasks"])]
        == [0.0] * 3
    )
    capsys.readouterr()
    assert evaluate.main(["--output-dir", str(tmp_path / "out")]) == 0
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert all(table[task["name"]][0] == table[task["name"]][2] for task in results["tasks"])
    assert (
        evaluate.main(
            [
                "--output-dir",
                str(tmp_path / "out"),
                "--export",
                "one",
                str(tmp_path / "one.safetensors"),
            ]
        )
        == 0
    )


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], id="shared norms"),
        pytest.param(["--train-bn", "--train-biases"], id="own norms", marks=pytest.mark.slow),
    ],
)
def test_the_vision_transformer_on_the_demos_data(tmp_path, more):
    """Each task, exported, gives the same logits in plain PyTorch."""
    torch = pytest.importorskip("torch")
    output = tmp_path / "out"
    drawings.draw(tmp_path / "data", train=4, test=2)
    folders = ["--data-root", str(tmp_path / "data"), "--output-dir", str(output)]
    arguments = """
        --demo --arch vit-slim --num-epochs-base 1 --num-epochs-base-finetune 1
        --num-epochs-per-task 1 --num-epochs-finetune 1 --baselines
        --task-list demo_birds demo_flowers --pruning-ratios 0.75 0.5
    """.split()
    assert main.main([*folders, *arguments, *more]) == 0
    results = results_of(output)
    assert [stage["max_logit_change"] for stage in (results["base"], *results["tasks"])] == [
        0.0
    ] * 3
    packed, metadata = load_packed(output / "packnet.safetensors")
    packnet = evaluate.unpack(packed, metadata, evaluate.network_of(metadata, None, output), output)
    for task in ("demo_birds", "demo_flowers"):
        evaluate.export(packnet, metadata, task, str(tmp_path / f"{task}.safetensors"))
        assert (
            evaluate.main(["--seals", str(tmp_path / f"{task}.safetensors")]) == 0
        )  # some layers have torchvision's names in it
        tensors = load_file(tmp_path / f"{task}.safetensors")
        twin = torch_vit(torch, ARCHITECTURES["vit-slim"], len(tensors["heads.head.bias"]))
        twin.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
        loader, _ = create_dataloader(task, tmp_path / "data", "test", 4, image_size=48)
        ours, _ = packnet.predict(task, loader)
        with torch.no_grad():
            theirs = np.concatenate(
                [twin(torch.from_numpy(images.numpy())).numpy() for images, _ in loader]
            )
        assert (
            np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max() and np.abs(theirs).max() > 0.1
        )


def test_a_run_with_a_network_of_ones_own(data, tmp_path, capsys):
    arch, output = write(tmp_path / "my_net.py", PLAIN), tmp_path / "out"
    assert (
        main.main(
            options(data, output, "--arch", arch, "--image-size", "24", "--baselines", "individual")
        )
        == 0
    )
    assert [task["max_logit_change"] for task in results_of(output)["tasks"]] == [0.0, 0.0]
    needs = load_metadata(output / "packnet.safetensors")["network"]
    assert (needs["file"], needs["function"], len(needs["sha256"])) == ("my_net.py", "build", 64)

    # the packed file does not say what is run
    capsys.readouterr()
    marker = tmp_path / "was run"
    (output / "my_net.py").write_text(
        f"open({str(marker)!r}, 'w')\n" + (tmp_path / "my_net.py").read_text()
    )
    (tmp_path / "my_net.py").rename(tmp_path / "elsewhere.py")
    write(tmp_path / "my_net.py", f"open({str(marker)!r}, 'w')")
    image = next(data.glob("one/test/a/*.jpg"))
    for arguments in (
        [],
        ["--task", "one", "--predict", str(image)],
        ["--export", "one", str(tmp_path / "x.safetensors")],
    ):
        assert evaluate.main(["--output-dir", str(output), *arguments]) == 2
        error = capsys.readouterr().err
        assert (
            "built by the function build of a file my_net.py" in error and needs["sha256"] in error
        )
        assert "--arch path/to/my_net.py:build" in error
    assert main.main(options(data, output, "--resume")) == 2
    assert "only a file that is named is run: add --arch" in capsys.readouterr().err
    assert not marker.exists()

    # where it is now, or another one
    moved = f"{tmp_path}/elsewhere.py:build"
    assert evaluate.main(["--output-dir", str(output), "--arch", moved]) == 0
    out, error = capsys.readouterr()
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert "warning" not in error and all(
        table[task][0] == table[task][2] for task in ("base", "one", "two")
    )
    assert evaluate.main(["--output-dir", str(output), "--arch", "vgg16"]) == 2
    assert "must be path/to/my_net.py:build" in capsys.readouterr().err
    assert (
        evaluate.main(["--output-dir", str(output), "--arch", f"{tmp_path}/nowhere.py:build"]) == 2
    )
    assert "nowhere.py" in capsys.readouterr().err
    (tmp_path / "elsewhere.py").write_text(
        (tmp_path / "elsewhere.py").read_text() + "# one more line\n"
    )
    assert evaluate.main(["--output-dir", str(output), "--arch", moved]) == 0
    assert "is not the one that the run was made with" in capsys.readouterr().err


HABITS = """
    import numpy as np
    import jittor as jt

    class Net(nn.Module):
        def __init__(self):
            self._stem, self._bn = nn.Conv(3, 4, 24), nn.BatchNorm(4)
            self._drop, self._fc = nn.Dropout(0.2), nn.Linear(4, 8)
            self.last = nn.Linear(8, 2)
            self.register_buffer("scale", jt.array(np.float32([0.5, 1.5, 2, 1 / 3])))
            self.register_buffer("mask", jt.array(np.uint8([1, 1, 0, 1])))

        def execute(self, x):
            x = nn.relu(self._bn(self._stem(x)))[:, :, 0, 0] * self.scale * self.mask
            return self.last(nn.relu(self._fc(self._drop(x))))

    def build():
        net = Net()
        net.eval()
        for parameter in net._fc.parameters():
            parameter.assign(jt.ones(parameter.shape) * 0.1)
            parameter.stop_grad()
        net.train()
        return net
    """


def test_a_run_with_a_network_by_somebody_who_knows_pytorch(data, tmp_path, capsys):
    """Buffers and what its author froze stay to the bit, in the baselines too; the last batch of
    one image, of which the batch norm sees one value, is left out, and that is said once for each
    task."""
    arch, output = write(tmp_path / "my_net.py", HABITS), tmp_path / "out"
    more = "--image-size 24 --batch-size 11 --num-epochs-per-task 4 --baselines lwf joint".split()
    assert main.main(options(data, output, "--arch", arch, *more)) == 0
    tensors = load_file(output / "packnet.safetensors")
    assert (tensors["trunk.scale"] == np.float32([0.5, 1.5, 2, 1 / 3])).all()
    assert tensors["trunk.mask"].tolist() == [1, 1, 0, 1]
    assert {name for name in tensors if name.startswith("owner.")} == {"owner.trunk._stem.weight"}
    assert (tensors["trunk._fc.weight"] == np.float32(0.1)).all()
    assert (tensors["trunk._fc.bias"] == np.float32(0.1)).all()
    log = (output / "log.txt").read_text()
    said = [
        line.split(":")[0]
        for line in log.splitlines()
        if "the last batch of an epoch is one image, of which the batch norm trunk._bn sees" in line
    ]
    assert said == [
        "base, train 1/1",
        "base, retrain 1/1",
        *["lwf"] * 4,
        "joint",
    ]  # else it stands still
    assert [task["max_logit_change"] for task in results_of(output)["tasks"]] == [0.0, 0.0]
    assert (
        main.main(
            options(data, tmp_path / "x", "--arch", arch, "--image-size", "24", "--batch-size", "1")
        )
        == 2
    )
    assert (
        "every batch is one image, of which the batch norm trunk._bn sees one value"
        in capsys.readouterr().err
    )


def test_a_task_is_added_to_a_network_of_ones_own(data, tmp_path, capsys):
    arch, before, after = (
        write(tmp_path / "my_net.py", PLAIN),
        tmp_path / "before",
        tmp_path / "after",
    )
    assert main.main(options(data, before, "--arch", arch, "--image-size", "24")) == 0
    for split, count in (("train", 4), ("test", 2)):
        write_images(data / "three" / split, dict.fromkeys("abc", count), seed=9)
    addition = [
        "--add-to",
        str(before),
        "--task-list",
        "three",
        "--output-dir",
        str(after),
        "--data-root",
        str(data),
    ]
    capsys.readouterr()
    assert main.main(addition) == 2
    assert "Say where that is now: --arch path/to/my_net.py:build" in capsys.readouterr().err
    other = write(tmp_path / "other.py", PLAIN + "    # another file\n")
    assert main.main([*addition, "--arch", other]) == 2
    assert (
        "not the function and the file that the packed network was made with"
        in capsys.readouterr().err
    )
    assert main.main([*addition, "--arch", arch]) == 0
    capsys.readouterr()
    assert evaluate.main(["--output-dir", str(after), "--seals"]) == 0
    assert "4 tasks: seals unchanged" in capsys.readouterr().out
    assert evaluate.main(["--output-dir", str(after), "--arch", arch]) == 0


def test_an_addition_runs_no_file_that_a_packed_file_names(data, tmp_path, capsys):
    """Without the entry that says so, a network in a file is none of this program's."""
    arch, output, marker = (
        write(tmp_path / "my_net.py", PLAIN),
        tmp_path / "out",
        tmp_path / "was run",
    )
    assert main.main(options(data, output, "--arch", arch, "--image-size", "24")) == 0
    packed, metadata = load_packed(output / "packnet.safetensors")
    del metadata["network"]
    save_packed(output / "packnet.safetensors", packed, metadata)
    write(tmp_path / "my_net.py", f"open({str(marker)!r}, 'w')")
    for split, count in (("train", 4), ("test", 2)):
        write_images(data / "three" / split, dict.fromkeys("abc", count), seed=9)
    assert (
        main.main(
            [
                "--add-to",
                str(output),
                "--task-list",
                "three",
                "--output-dir",
                str(tmp_path / "x"),
                "--data-root",
                str(data),
            ]
        )
        == 2
    )
    assert not marker.exists() and not (tmp_path / "x").exists()


def test_a_stopped_run_goes_on_with_the_same_file_only(data, tmp_path, capsys, monkeypatch):
    arch, output = write(tmp_path / "my_net.py", PLAIN), tmp_path / "out"

    def stop(run, task):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "finish", stop)
        assert main.main(options(data, output, "--arch", arch, "--image-size", "24")) == 130
    resume = ["--resume", "--output-dir", str(output)]
    assert main.main(resume) == 2
    assert "only a file that is named is run" in capsys.readouterr().err
    text = (tmp_path / "my_net.py").read_text()
    (tmp_path / "my_net.py").write_text(text + "#\n")
    assert main.main([*resume, "--arch", arch]) == 2
    assert "a byte of the file, is another" in capsys.readouterr().err
    (tmp_path / "my_net.py").rename(tmp_path / "moved.py")
    (tmp_path / "moved.py").write_text(text)
    assert main.main([*resume, "--arch", f"{tmp_path}/moved.py:build"]) == 0
    assert results_of(output)["finished"]


def test_a_checkpoint_that_names_a_file_itself_runs_none(data, tmp_path, capsys):
    """Made by somebody else, as if its network had a name."""
    from storage.checkpoint import load_checkpoint, save_checkpoint

    output = tmp_path / "out"
    assert main.main(options(data, output, "--arch", "vgg-slim", "--image-size", "24")) == 0
    tensors, metadata = load_checkpoint(output / "packnet.safetensors")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    save_checkpoint(
        output / "packnet.safetensors", tensors, metadata | dict(arch=f"{tmp_path}/evil.py:build")
    )
    assert (
        evaluate.main(["--output-dir", str(output)]) == 2
        and "unknown network" in capsys.readouterr().err
    )
    save_checkpoint(output / "packnet.safetensors", tensors, metadata)
    assert evaluate.main(["--output-dir", str(output), "--arch", f"{tmp_path}/evil.py:build"]) == 2
    assert "holds a vgg-slim, which needs no file" in capsys.readouterr().err
    assert not (tmp_path / "was run").exists()


# ---- --dry-run


def test_a_dry_run_prints_the_table_and_does_nothing(data, tmp_path, capsys):
    arch = write(tmp_path / "my_net.py", PLAIN)
    assert (
        main.main(
            options(data, tmp_path / "out", "--arch", arch, "--image-size", "24", "--dry-run")
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:3] for line in lines[1 : lines.index("")]}
    assert rows == {
        "trunk.conv.weight": ["4x3x3x3", "owned"],
        "trunk.conv.bias": ["4", "shared"],
        "trunk.gate.weight": ["4x4", "owned"],
        "trunk.gate.bias": ["4", "shared"],
        **{
            f"heads.{task}.{part}": [shape, "head"]
            for task in ("base", "one", "two")
            for part, shape in (("weight", "3x4"), ("bias", "3"))
        },
    }
    assert "all" in lines[-3] and "are packed" in lines[-3] and "4 features" in lines[-1]
    assert not (tmp_path / "out").exists() and not list(data.glob(".cache"))


def test_a_dry_run_needs_no_data_and_no_weights(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "main.py",
            "--arch",
            "resnet18",
            "--data-root",
            tmp_path / "nowhere",
            "--dry-run",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "11,166,912" in done.stdout, (
        done.stderr
    )  # torchvision's 11,689,512 less norms, head and their biases
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "body, message",
    [
        ("def build(:", "is not Python"),
        (
            """
     class Net(nn.Module):
         def __init__(self):
             self.blocks, self.out = [nn.Linear(3, 3)], nn.Linear(3, 3)

         def execute(self, x):
             return self.out(self.blocks[0](x.mean((2, 3))))

     def build():
         return Net()
     """,
            "blocks.0.weight cannot be packed: it is in a plain list",
        ),
        (
            """
     from jittor.weightnorm import weight_norm

     def build():
         net = nn.Sequential(nn.Conv(3, 4, 24), nn.Flatten(), nn.Linear(4, 4), nn.ReLU(),
                             nn.Linear(4, 2))
         weight_norm(net[2], "weight", -1)
         return net
     """,
            "weight_norm computes it anew",
        ),
        (
            """
     def build():
         net = nn.Sequential(nn.Conv(3, 4, 24), nn.Flatten(), nn.Linear(4, 2))
         net[0].requires_grad_(False)
         return net
     """,
            "0 cannot be packed: Jittor's requires_grad_(False)",
        ),
    ],
    ids=["syntax", "list", "weight_norm", "requires_grad_"],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_network_that_cannot_be_packed_ends_with_code_2(
    data, tmp_path, body, message, dry, capsys
):
    arch = write(tmp_path / "net.py", body)
    arguments = options(data, tmp_path / "out", "--arch", arch, "--image-size", "24")
    if dry:
        arguments.append("--dry-run")
    assert main.main(arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_file_that_defines_a_dataclass(tmp_path):
    path = tmp_path / "net_with_settings.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom jittor "
        "import nn\n"
        "@dataclass\nclass Settings:\n    width: int = 5\n\n"
        "def build():\n    return nn.Linear(3, Settings().width)\n\n"
        "def fails():\n    raise ValueError('on purpose')\n"
    )
    assert own.make(path, "build").weight.shape == [5, 3]
    with pytest.raises(ConfigError, match="on purpose"):
        own.make(path, "fails")
    assert not any("net_with_settings" in name for name in sys.modules)


def test_a_dry_run_is_for_one_network(capsys):
    assert (
        main.main(["--experiment", "seed", "--dry-run"]) == 2
        and "is for one network" in capsys.readouterr().err
    )
    assert (
        main.main(["--resume", "--dry-run"]) == 2
        and "leave --resume out" in capsys.readouterr().err
    )
    assert (
        main.main(["--arch", "vgg18", "--dry-run"]) == 2
        and "must be one of" in capsys.readouterr().err
    )


@pytest.mark.parametrize("page", ["docs/networks.md", "docs/zh/networks.md"])
def test_the_pages_example_prints_the_pages_table(page, tmp_path, capsys, monkeypatch):
    text = (ROOT / page).read_text(encoding="utf8")
    code = re.search(r"```python\n# my_net.py\n(.*?)```", text, re.DOTALL)[1]
    command, table = re.search(r"```\n\$ python main.py (.*?)\n(.*?)```", text, re.DOTALL).groups()
    (tmp_path / "my_net.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert main.main(command.split()) == 0 and capsys.readouterr().out == table
