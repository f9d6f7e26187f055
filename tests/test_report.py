"""The page's figures from results made by hand: runs grouped by settings, the first table, what
stands beside what, hours, pictures."""

import csv
import itertools
import json
import statistics

import pytest

import report
from reporting import gather, plots
from reporting.markup import Document
from reporting.published import COLUMNS
from reporting.summary import ON_VALIDATION, summary
from settings import effort
from settings.config import Config
from settings.experiments import EXPERIMENTS, runs_of

ORDERS = [list(order) for order in itertools.permutations(["cubs", "cars", "flowers"])]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def stage(name, top1, **more):
    return (
        dict(
            name=name,
            num_classes=9,
            top1_final=top1,
            top5_final=top1 and top1 + 5,
            top1_by_stage=[top1],
            top5_by_stage=[top1],
            top1_best_epoch=top1,
            top1_before_prune=top1,
            top1_after_prune=top1,
            top1_after_finetune=top1,
            owned_fraction=0.1,
            still_zero=0.0,
            max_logit_change=0.0,
            pruning_ratio=0.75,
        )
        | more
    )


def save(folder, tops, base=None, baselines=None, **settings):
    """The results of a finished run. `tops`: {task: accuracy}; `base`: ImageNet's, where it was
    measured."""
    config = Config(
        task_list=list(tops),
        pruning_ratios=settings.pop("pruning_ratios", [0.75] * len(tops)),
        **settings,
    ).asdict()
    names = list(tops)
    if base is not None:
        names.insert(0, "imagenet")
    baselines = {
        method: dict(
            tasks=names,
            top1_by_stage=[[figures[name] for name in names]],
            top5_by_stage=[[figures[name] + 3 for name in names]],
        )
        for method, figures in (baselines or {}).items()
    }
    results = dict(
        finished=True,
        arch=config["arch"],
        device="cpu",
        processes=1,
        config=config,
        seconds=1800.0,
        earlier=[],
        network=None,
        toolchain="Jittor 1.3 on cpu (Some CPU, 2 cores, winograd convolutions; there is no "
        "GPU), Python 3.11",
        base=stage("imagenet", base),
        tasks=[stage(name, top1) for name, top1 in tops.items()],
        seals_unchanged=[],
        history=[],
        accuracy_matrix=[],
        capacity=[],
        owners_by_layer={},
        baselines=baselines,
        base_retrained=base is not None,
        storage=dict(packed_file=1, owner_maps=1, separate_networks=2),
        continual={
            "packnet": dict(average_accuracy=1.0, backward_transfer=0.0, gap_to_individual=None)
        },
    )
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return results


def page_of(folder, *arguments):
    assert report.main(["--runs", str(folder), *arguments]) == 0
    return (folder / "report.md").read_text()


def lines(markdown, beginning):
    return [line for line in markdown.splitlines() if line.startswith(beginning)]


def at_a_glance(markdown, name):
    """The rows of an experiment in the first table."""
    return [line.strip("| ").split(" | ") for line in lines(markdown, f"| {name}: ")]


# ---- grouping


def test_runs_of_one_label_with_other_settings_are_not_averaged_as_seeds(tmp_path):
    runs, tasks = tmp_path / "runs", ("cubs", "cars", "flowers")
    for seed, top1 in ((0, 70.0), (1, 80.0)):
        save(
            runs / f"release-vgg16/packnet-seed{seed}",
            dict.fromkeys(tasks, top1),
            seed=seed,
            output_dir=f"out{seed}",
            data_root=f"d{seed}",
            pretrained=f"/{seed}/vgg16.pth",
            device=("auto", "cpu")[seed],
            initial_pruning_ratio=0.5,
        )
    found = gather.find_runs(runs)["release-vgg16"]
    assert [*found] == ["packnet"] and gather.spread(
        gather.errors(found["packnet"], "cubs")
    ) == "25.00 ± 7.07"
    save(
        runs / "release-vgg16/packnet-seed2",
        dict.fromkeys(tasks, 10.0),
        seed=2,
        initial_lr=0.01,
        pretrained="/2/vgg16.pth",
        num_epochs_per_task=3,
        initial_pruning_ratio=0.5,
    )
    found = gather.find_runs(runs)["release-vgg16"]
    assert {label: gather.errors(its, "cubs") for label, its in found.items()} == {
        "packnet, initial-lr 0.001, num-epochs-per-task 20": [30, 20],
        "packnet, initial-lr 0.01, num-epochs-per-task 3": [90],
    }
    markdown = page_of(runs)
    assert (
        "| cubs | 25.00 ± 7.07 | 90.00 |" in markdown
        and "ours, packnet, initial-lr 0.01, num-epochs-per-task 3" in markdown
    )
    rows = at_a_glance(markdown, "release-vgg16")  # a row each at the top, too
    assert [(row[2], row[4]) for row in rows] == [("25.00 ± 7.07", "2"), ("90.00", "1")]


def test_another_file_of_weights_is_another_experiment_and_another_place_is_none(tmp_path):
    for seed, pretrained in enumerate(("/a/vgg16.pth", "/b/vgg16.pth", "/a/other.pth")):
        save(
            tmp_path / f"seed/packnet-seed{seed}", dict(cubs=50.0), seed=seed, pretrained=pretrained
        )
    assert {label: len(its) for label, its in gather.find_runs(tmp_path)["seed"].items()} == {
        "packnet, pretrained vgg16.pth": 2,
        "packnet, pretrained other.pth": 1,
    }


def test_runs_of_no_experiment_are_told_apart_by_their_place(tmp_path):
    for place in ("a/packnet", "b/packnet", "packnet"):
        save(tmp_path / place, dict(cubs=50.0))
    assert [*gather.find_runs(tmp_path)] == ["a/packnet", "b/packnet", "packnet"]
    assert [*gather.find_runs(tmp_path / "a/packnet")] == ["packnet"]


# ---- files that are not as they must be


def keys_of(value, place=()):
    """The place of every key in it."""
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in pairs:
        if isinstance(value, dict):
            yield (*place, key)
        yield from keys_of(part, (*place, key))


@pytest.mark.parametrize("change", ["removed", "of another kind"])
def test_results_that_lack_one_key_leave_the_page_of_the_others(
    tmp_path, capsys, monkeypatch, change
):
    monkeypatch.setattr("reporting.plots.draw_by_order", lambda *_: None)
    whole = save(
        tmp_path / "main-table/bad-seed0",
        dict(cubs=50.0),
        70.0,
        dict(lwf=dict(imagenet=69.0, cubs=49.0)),
    )
    save(tmp_path / "main-table/good-seed0", dict(cubs=77.0), initial_pruning_ratio=0.5)
    needed = []
    for place in keys_of(whole):
        results = json.loads(json.dumps(whole))
        owner = results
        for key in place[:-1]:
            owner = owner[key]
        if change == "removed":
            del owner[place[-1]]
        else:
            owner[place[-1]] = {"another": "kind"}
        (tmp_path / "main-table/bad-seed0/results.json").write_text(json.dumps(results))
        markdown, error = page_of(tmp_path), capsys.readouterr().err
        assert "| cubs | " in markdown and "23.00" in markdown, place
        if "left out" in error:
            needed.append(place)
            assert f"{place[-1]}" in error and "bad-seed0/results.json" in error
    assert {
        ("storage", "packed_file"),
        ("tasks", 0, "owned_fraction"),
        ("toolchain",),
        ("config", "keep"),
        ("baselines", "lwf", "tasks"),
    } <= {*needed}


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", "[" * 100_000, '{"finished": "no"}'])
def test_what_is_no_results_at_all_is_left_out(tmp_path, content, capsys):
    save(tmp_path / "good", dict(cubs=77.0))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/results.json").write_text(content)
    assert (
        "23.00" in page_of(tmp_path)
        and "bad/results.json: not the results of a run" in capsys.readouterr().err
    )


def test_a_page_never_takes_the_place_of_a_file_that_is_none_of_ours(tmp_path, capsys):
    save(tmp_path / "runs", dict(cubs=77.0))
    (tmp_path / "README.md").write_text("mine")
    assert (
        report.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "README.md")]) == 2
    )
    assert "README.md: is a file" in capsys.readouterr().err
    for name in ("report.md", "report.html", "report.csv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        assert report.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / name)]) == 2
        assert f"holds a {name}" in capsys.readouterr().err
        assert {path.name: path.read_text() for path in (tmp_path / name).iterdir()} == {
            name: "mine"
        }
    assert page_of(tmp_path / "runs") == page_of(tmp_path / "runs")  # its own place it takes again


# ---- what stands beside what


def test_every_published_column_is_of_something_that_an_experiment_runs():
    for column in COLUMNS.values():
        assert column.top5.keys() <= column.errors.keys() >= {*column.memory}
    for name, experiment in EXPERIMENTS.items():
        for source in experiment.published:
            results = [
                dict(
                    arch=Config(**settings).arch,
                    config=Config(**settings).asdict(),
                    baselines=dict.fromkeys(settings.get("baselines", [])),
                )
                for _, settings in runs_of(name)
            ]
            assert any(COLUMNS[source].fits(its) for its in results), (name, source)


@pytest.mark.parametrize(
    "settings, beside",
    [
        ({}, True),
        (dict(initial_pruning_ratio=0.75), False),
        (dict(train_biases=True), False),
        (dict(train_bn=True), False),
        (dict(pack="fc"), False),
        (dict(prune="filters"), False),
        (dict(free_weights=0.1), False),
        (dict(arch="resnet50"), False),
        (dict(task_list=["cars", "cubs", "flowers"]), False),
        (dict(seed=3), True),
    ],
)
def test_only_the_same_stands_beside_a_published_column(settings, beside):
    config = Config(**dict(initial_pruning_ratio=0.5) | settings)
    results = dict(arch=config.arch, config=config.asdict(), baselines={})
    assert COLUMNS["authors' release, VGG-16"].fits(results) == beside
    assert not COLUMNS["LwF, VGG-16"].fits(results)


def main_table(runs):
    """All of it, with accuracies by hand: {(ratio, task): errors}, LwF's errors of CUBS."""
    errors, lwf = {}, []
    for number, (label, settings) in enumerate(runs_of("main-table")):
        settings = dict(settings)
        order, ratio = settings.pop("task_list"), settings["initial_pruning_ratio"]
        tops = {
            task: 60 + 10 * order.index(task) + len(task) + 10 * ratio + number / 7
            for task in order
        }
        methods = {
            method: dict(tops, imagenet=71.0) | dict(cubs=50.0 + number)
            for method in settings.pop("baselines")
        }
        save(runs / "main-table" / label, tops, 70.0 + ratio, methods, **settings)
        for task in order:
            errors.setdefault((ratio, task), []).append(100 - tops[task])
        lwf += [100 - figures["cubs"] for method, figures in methods.items() if method == "lwf"]
    return errors, lwf


def test_the_main_table_is_a_mean_over_the_six_orders(tmp_path):
    errors, lwf = main_table(tmp_path)
    markdown = page_of(tmp_path)
    (row,) = [line for line in lines(markdown, "| cubs | ") if " 25.72 (m) |" in line]
    cells = row.strip("| ").split(" | ")
    assert len(errors[0.5, "cubs"]) == len(lwf) == 6 and len(cells) == 1 + 5 * 3

    def both(values, published):
        return [
            f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}",
            published[0],
            f"{statistics.mean(values) - float(published[0].split()[0]):+.2f}",
        ]

    # classifier only: of one order, on which it does not depend
    assert cells[1:4] == ["50.00", "36.76 (m)", "+13.24"]
    assert cells[4:7] == both(lwf, ["30.42 (m)"])
    assert cells[7:10] == both(errors[0.5, "cubs"], ["25.72 (m)"]) and cells[10:13] == both(
        errors[0.75, "cubs"], ["24.95"]
    )
    (row,) = [line for line in lines(markdown, "| imagenet | ") if " 29.33 (m) |" in line]
    assert "| 29.50 ± 0.00 | 29.33 (m) | +0.17 | 29.25 ± 0.00 | 30.87 (m) | -1.62 |" in row
    first, *_, last = rows = at_a_glance(markdown, "main-table")
    assert (
        len(rows) == 5
        and "classifier only" in first[0]
        and "individual networks" in last[0]
        and "6 orders" in rows[1][4]
    )
    means = [
        statistics.mean(
            [29.5, *(errors[0.5, task][number] for task in ("cubs", "cars", "flowers"))]
        )
        for number in range(6)
    ]
    published = statistics.mean([29.33, 25.72, 18.08, 10.09])
    (ratio,) = [row for row in rows if "ratio 0.50" in row[1]]
    assert ratio[1].startswith(f"{published:.2f} (m) (") and ratio[2:4] == [
        f"{statistics.mean(means):.2f} ± {statistics.stdev(means):.2f}",
        f"{statistics.mean(means) - published:+.2f}",
    ]
    assert ratio[5:] == ["3", "Some CPU, 2 cores"]  # six runs of half an hour


def test_errors_by_position_in_the_order(tmp_path):
    errors, _ = main_table(tmp_path)
    markdown = page_of(tmp_path)
    assert "position in the order, initial-pruning-ratio 0.5" in markdown
    row = next(line for line in lines(markdown, "| cars | ")).strip("| ").split(" | ")
    table = markdown[markdown.index("| task | position 1") :]
    row = next(line for line in lines(table, "| cars | ")).strip("| ").split(" | ")
    for position in range(3):
        values = [
            error
            for error, order in zip(errors[0.5, "cars"], ORDERS)
            if order.index("cars") == position
        ]
        assert (
            row[1 + position] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
            and len(values) == 2
        )


def test_top5_stands_where_it_is_published(tmp_path):
    save(
        tmp_path / "release-vgg16/packnet-seed0",
        dict(cubs=77.0, cars=80.0, flowers=90.0),
        71.0,
        initial_pruning_ratio=0.5,
    )
    markdown = page_of(tmp_path)
    assert (
        "| imagenet | 29.00 (24.00) | 29.19 (9.90) | -0.19 |" in markdown
        and "| cubs | 23.00 | 22.56 | +0.44 |" in markdown
    )
    (row,) = at_a_glance(markdown, "release-vgg16")
    published = statistics.mean([29.19, 22.56, 17.09, 11.07])
    assert row[1:5] == [
        f"{published:.2f} (authors' release, VGG-16; 4 tasks)",
        "20.50",
        f"{20.5 - published:+.2f}",
        "1",
    ]


def test_top5_of_five_classes_is_left_out(tmp_path):
    for classes in (5, 6):
        results = save(
            tmp_path / f"{classes}/release-vgg16/packnet-seed0",
            dict(cubs=77.0, cars=80.0, flowers=90.0),
            71.0,
            dict(lwf=dict(imagenet=70.0, cubs=60.0, cars=50.0, flowers=40.0)),
            initial_pruning_ratio=0.5,
        )
        for task in (results["base"], *results["tasks"]):
            task["num_classes"] = classes
        path = tmp_path / f"{classes}/release-vgg16/packnet-seed0/results.json"
        path.write_text(json.dumps(results))
        assert ("| imagenet | 29.00 (24.00) | " in page_of(tmp_path / str(classes))) == (
            classes > 5
        )
        with open(tmp_path / str(classes) / "report.csv", newline="") as f:
            top5 = [row["top5"] for row in csv.DictReader(f)]
        shown = ["76.0", "82.0", "85.0", "95.0", "73.0", "63.0", "53.0", "43.0"]
        assert top5 == (shown if classes > 5 else [""] * 8)


def test_the_ratios_on_a_base_that_stays(tmp_path):
    assert {Config(**settings).initial_pruning_ratio for _, settings in runs_of("ratios")} == {0.5}
    for ratio, top1 in ((0.25, 80.0), (0.75, 70.0)):
        for seed in (0, 1):
            results = save(
                tmp_path / f"ratios/{ratio:g}-seed{seed}",
                dict(cubs=top1),
                seed=seed,
                pruning_ratios=[ratio],
                initial_pruning_ratio=0.5,
            )
            results["tasks"][0].update(
                pruning_ratio=ratio, top1_before_prune=85.0, top1_after_prune=top1 - 20 - 2 * seed
            )
            (tmp_path / f"ratios/{ratio:g}-seed{seed}/results.json").write_text(json.dumps(results))
    markdown = page_of(tmp_path)
    assert "| 0.25 | 15.00 ± 0.00 | 41.00 ± 1.41 | 20.00 ± 0.00 |" in markdown
    assert (
        "| 0.75 | 15.00 ± 0.00 | 51.00 ± 1.41 | 30.00 ± 0.00 |" in markdown
        and "![ratios](ratios.png)" in markdown
    )


def test_a_long_sequence_by_position(tmp_path):
    for fraction, seed in ((0.0, 0), (0.0, 1), (0.1, 0)):
        tops = {
            f"signs_{number:02}": 100.0 - number - seed - 10 * fraction for number in range(1, 21)
        }
        save(
            tmp_path / f"free-weights/{fraction:g}-seed{seed}",
            tops,
            90.0,
            seed=seed,
            free_weights=fraction,
        )
    markdown = page_of(tmp_path)
    assert (
        "| free weights start at | 0 | 0.1 |" in markdown
        and "![free-weights](free-weights.png)" in markdown
    )
    assert "| mean of the first 12 | 93.00 ± 0.71 | 92.50 |" in markdown  # 100 - 6.5, seeds 1 apart
    assert "| mean of the 20 tasks | 89.00 ± 0.71 | 88.50 |" in markdown
    assert "| mean of the last 3 | 80.50 ± 0.71 | 80.00 |" in markdown
    assert len(lines(markdown, "| 20 | ")) == 2  # weights still 0, weights owned


def test_a_cell_of_words_is_broken_into_lines_and_a_figure_is_not(tmp_path):
    page = Document(tmp_path)
    page.table(
        ["a", "b"],
        [["12.50 ± 0.25", "35.52 (m) (paper, classifier only, VGG-16; 4 tasks)"], ["-", "-"]],
    )
    assert "<td>12.50 ± 0.25</td><td class=words>35.52 (m)" in page.html[0]


# ---- pictures


def test_the_change_of_error_is_counted_from_when_a_task_was_learnt():
    results = dict(
        base=stage("base", 70.0, top1_dense=75.0, top1_by_stage=[70.0, 70.0, 70.0]),
        tasks=[stage("a", 80.0, top1_by_stage=[80.0, 80.0]), stage("b", 90.0)],
        baselines=dict(
            lwf=dict(
                tasks=["base", "a", "b"], top1_by_stage=[[72.0, 81.0, None], [66.0, 78.0, 88.0]]
            )
        ),
    )
    figure = plots.change_as_tasks_are_added(results)
    drawn = [
        {line.get_label(): [*zip(line.get_xdata(), line.get_ydata())] for line in axes.get_lines()}
        for axes in figure.axes
    ]
    plots.plt.close(figure)
    assert drawn == [
        dict(base=[(0, 0), (1, 3), (2, 9)], a=[(1, 0), (2, 3)], b=[(2, 0)]),
        dict(base=[(0, 0), (1, 0), (2, 0)], a=[(1, 0), (2, 0)], b=[(2, 0)]),
    ]


# ---- a run with a validation part


def test_the_error_before_a_prune_is_said_to_be_on_the_validation_part(tmp_path):
    for place, validation in (("apart", 0.25), ("none", 0.0)):
        for kind, settings in (
            (place, {}),
            (f"{place}/ratios/0.5-seed0", dict(pruning_ratios=[0.5])),
        ):
            results = save(
                tmp_path / kind, dict(cubs=50.0), 70.0, validation=validation, **settings
            )
        markdown = page_of(tmp_path / place)
        assert ("| before prune (validation) | " in markdown) == bool(validation)
        assert (
            "| ratio | before the prune (validation) | right after it (validation) | re-trained |"
            in markdown
        ) == bool(validation)
        assert markdown.count(ON_VALIDATION) == 2 * bool(validation)
        with open(tmp_path / place / "report.csv", newline="") as f:
            assert {float(row["validation"]) for row in csv.DictReader(f)} == {validation}
        assert (ON_VALIDATION in summary(results)) == bool(validation)
        results["base"]["top1_by_stage"] *= 2
        figure = plots.error_as_tasks_are_added(results)
        named = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        plots.plt.close(figure)
        assert named[-1] == "before its prune" + (" (validation)" if validation else "")


# ---- hours


def test_the_hours_of_what_was_not_run(tmp_path, capsys):
    """By hand: release-vgg16 trains 20 epochs of each task, 10 more of those that are pruned, with
    a test each, one before the prune, one after it, and one of every task so far."""
    (tmp_path / "runs").mkdir()
    command = "Not run yet: python main.py --experiment release-vgg16"
    markdown = page_of(tmp_path / "runs")
    published = f"{(29.19 + 22.56 + 17.09 + 11.07) / 4:.2f} (authors' release, VGG-16; 4 tasks)"
    assert (
        f"| {published} | {command} | - | - | - | - |" in markdown
        and "`python report.py --measure` makes" in markdown
    )
    assert [effort.rounded(value) for value in (0.334, 1.25, 128, 14321)] == [
        "0.33",
        "1.2",
        "130",
        "14,000",
    ]
    effort.save_rates(effort.Rates("This CPU", {"vgg16 224": (2.0, 0.5)}))
    distilled = 20 * 5000  # the base network, without ImageNet
    trained = 30 * 5994 + 30 * 8144 + 20 * 2040 + distilled
    forward = (
        5794 * (30 + 2 + 1) + 8041 * (30 + 2) + 5794 + 8041 + 6149 * (20 + 1) + 5794 + 8041 + 6149
    )
    forward += distilled  # its teacher
    forward += 2 * 8 * 64  # its layers are fitted: eight passes through both networks
    forward += 5994 + 8144 + 2040 + 2 * (5794 + 8041 + 6149)  # portraits; whose is it?
    assert effort.hours("release-vgg16", effort.load_rates()) == pytest.approx(
        (trained * 2 + forward * 0.5) / 3600
    )
    assert effort.hours("seeds", effort.load_rates(), seeds=6) == 2 * effort.hours(
        "seeds", effort.load_rates()
    )
    assert effort.hours("release-resnet50", effort.load_rates()) is None
    markdown = page_of(tmp_path / "runs")
    assert (
        f"| {command} | - | - | ≈ {round((trained * 2 + forward * 0.5) / 3600, -1):g} | - |"
        in markdown
        and "(This CPU)" in markdown
    )


def test_a_rate_is_measured_and_kept(tmp_path, monkeypatch, capsys):
    from runs import rate

    rates = rate.measured(
        [Config(arch="vgg-slim", image_size=16), Config(arch="vgg-slim", image_size=16, seed=1)]
    )
    assert [*rates.seconds] == ["vgg-slim 16"] and all(
        0 < seconds < 1 for seconds in rates.seconds["vgg-slim 16"]
    )
    monkeypatch.setattr(rate, "measured", lambda: rates)
    (tmp_path / "runs").mkdir()
    assert report.main(["--runs", str(tmp_path / "runs"), "--measure", "--device", "cpu"]) == 0
    assert effort.load_rates() == effort.Rates(
        rates.hardware, {name: [*pair] for name, pair in rates.seconds.items()}
    )
    effort.rates_file().write_text("{")
    assert effort.load_rates() is None


def test_the_picture_of_forgetting_begins_with_the_base_task():
    """Where fine-tuning has measured it: it was learnt before the baseline began."""
    from matplotlib import pyplot as plt

    from reporting import plots

    def stage(name, *top1):
        return dict(name=name, num_classes=2, top1_by_stage=list(top1), top1_dense=91.0)

    results = dict(
        base=stage("x_first", 90, 90, 90),
        tasks=[stage("x_second", 80, 80), stage("x_third", 70)],
        baselines=dict(
            finetune=dict(
                tasks=["x_first", "x_second", "x_third"],
                top1_by_stage=[[60, 85, None], [50, 65, 75]],
            )
        ),
    )

    def drawn():
        figure = plots.forgetting(results)
        lines = [
            [(*line.get_xdata(), *line.get_ydata()) for line in axes.get_lines()[:2]]
            for axes in figure.axes
        ]
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        plt.close(figure)
        return lines, labels

    assert drawn() == (
        [
            [(0, 1, 2, 90, 90, 90), (0, 1, 2, 91.0, 60, 50)],
            [(1, 2, 80, 80), (1, 2, 85, 65)],
            [(2, 70), (2, 75)],
        ],
        ["first", "+ second", "+ third"],
    )
    finetune = results["baselines"]["finetune"]  # of a base without data
    finetune["tasks"] = finetune["tasks"][1:]
    finetune["top1_by_stage"] = [row[1:] for row in finetune["top1_by_stage"]]
    assert drawn() == (
        [[(0, 1, 80, 80), (0, 1, 85, 65)], [(1, 70), (1, 75)]],
        ["second", "+ third"],
    )
