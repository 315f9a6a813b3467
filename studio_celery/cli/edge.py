"""The edge between commands and people: the one place where errors become sentences and exit codes.

Exit codes: 0 done; 1 the command could not be carried out; 2 wrong usage.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import click

from studio_celery.errors import StudioError, UsageError

#: Environment variable that `--debug` sets, so that a worker's children see it too.
DEBUG = "STUDIO_DEBUG"


def sentences(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn our errors into one sentence on stderr; anything else is a bug and says so."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:
            # The reader has gone: nothing more to say, and nobody to say it to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except OSError as exc:
            if os.environ.get(DEBUG):
                raise
            place = f" ({exc.filename})" if exc.filename else ""
            click.echo(f"Error: {exc.strerror or exc}{place}: check the disk, and your permissions.", err=True)
            raise SystemExit(1) from exc
        except StudioError as exc:
            if os.environ.get(DEBUG):
                raise
            click.echo(f"Error: {exc}", err=True)
            raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc

    return wrapped


def debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--debug`: show tracebacks."""

    def remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            os.environ[DEBUG] = "1"

    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=remember, help="Show tracebacks of errors."
    )(command)


def setting_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for settings, declared once in `settings`; given ones go into the environment of this process."""
    from studio_celery.settings import option_help

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = click.option(
                f"--{name.replace('_', '-')}",
                expose_value=False,
                callback=_remember_setting,
                help=f"{option_help(name)} [env STUDIO_{name.upper()}]",
            )(command)
        return command

    return decorate


def _remember_setting(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and parameter.name:
        os.environ[f"STUDIO_{parameter.name.upper()}"] = value


def print_json(document: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))
