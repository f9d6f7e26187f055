"""The settings as flags of a command line."""
import argparse
import dataclasses
import typing

from settings.config import Config, flag_of


def add_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of Config; one that is not given leaves no attribute behind."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in dataclasses.fields(Config):
        title = field.metadata["group"]
        choices = field.metadata["choices"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        default = field.default
        if default is dataclasses.MISSING:
            default = field.default_factory()
        text = field.metadata["text"].replace("%", "%%")
        if "(default" not in text:
            text += f" (default: {' '.join(default) if isinstance(default, list) else default})"
        kind = field.metadata["kind"] or (typing.get_args(field.type) or [field.type])[0]
        if isinstance(default, bool):
            how = dict(action=argparse.BooleanOptionalAction)
        elif isinstance(default, list):
            how = dict(nargs="+" if default else "*", type=kind)
        else:
            how = dict(type=kind)
        if choices:  # shown here, checked with all others by Config.check_values
            how["metavar"] = f"{{{','.join(choices)}}}"
        groups[title].add_argument(flag_of(field.name), help=text, default=argparse.SUPPRESS, **how)
