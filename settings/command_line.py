"""The settings as flags of a command line."""
import argparse
import dataclasses
import typing

from settings.config import Config, flag_of


def add_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of Config; one that is not given leaves no attribute behind."""
    for field in dataclasses.fields(Config):
        flag = flag_of(field.name)
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        text = field.metadata["text"].replace("%", "%%")
        if "(default" not in text:
            text += f" (default: {' '.join(default) if isinstance(default, list) else default})"
        kind = field.metadata["kind"] or (typing.get_args(field.type) or [field.type])[0]
        if isinstance(default, bool):
            how = dict(action=argparse.BooleanOptionalAction)
        elif isinstance(default, list):
            how = dict(nargs="*" if not default else "+", type=kind)
        else:
            how = dict(type=kind)
        parser.add_argument(flag, help=text, default=argparse.SUPPRESS, **how)
