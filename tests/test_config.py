"""The table of settings: what is derived from it, and --help."""

import argparse
import dataclasses

import pytest

from settings.command_line import add_settings
from settings.config import Config, ConfigError, flag_of, names_of

WITH_CHOICES = [each for each in dataclasses.fields(Config) if each.metadata["choices"]]


def test_what_a_packed_file_says_and_what_it_does_not():
    said = Config(output_dir="x", baselines=["lwf"]).of_packed_network()
    assert {*Config().asdict()} - {*said} == {
        "output_dir",
        "last",
        "baselines",
        "add_to",
        "prune_last",
        "recover_images",
    }
    assert {"arch", "image_size", "base_task", "pack", "last"} < {*names_of("fixed_when_packed")}
    assert {*names_of("may_move")} == {
        "data_root",
        "output_dir",
        "cache_dir",
        "pretrained",
        "recover_images",
        "add_to",
    }
    assert {*names_of("of_machine")} == {"cache_dir", "device", "precision"}


@pytest.mark.parametrize("each", WITH_CHOICES, ids=lambda each: each.name)
def test_a_setting_with_choices_takes_those_and_no_other(each):
    several = each.name == "baselines"
    for choice in each.metadata["choices"]:
        more = dict(validation=0.1) if choice == "best" else {}
        Config(**{each.name: [choice] if several else choice} | more).check_values()
    rule = "must be of" if several else "must be one of"
    with pytest.raises(ConfigError, match=f"{flag_of(each.name)} neither: {rule} "):
        Config(**{each.name: ["neither"] if several else "neither"}).check_values()


def test_help_comes_in_groups_and_shows_what_may_be_chosen():
    parser = argparse.ArgumentParser()
    add_settings(parser)
    text = parser.format_help()
    for title in ("tasks:", "network:", "schedule of the pretrained network:", "machine:"):
        assert text.count(f"\n{title}\n") == 1
    assert "--keep {last,best,best-on-test}" in text and "--pack {all,conv,fc,no-depthwise}" in text
    assert all(text.count(f"\n  {flag_of(each.name)}") >= 1 for each in dataclasses.fields(Config))
