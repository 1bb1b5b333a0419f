"""The `image-registry` command. A subcommand's module is imported when the subcommand is used."""

from __future__ import annotations

import importlib
import sys

import click

SECTIONS = {
    "Use the service": ("images", "jobs", "ensure"),
    "Run it": ("up", "serve", "worker", "gateway", "migrate"),
    "Look after it": ("keys", "doctor", "gc", "completion"),
}
COMMANDS = {
    "up": ("image_registry.cli.up:up", "Run the whole product on this machine until Ctrl-C."),
    "serve": ("image_registry.cli.serve:serve", "Run the gRPC server alone."),
    "worker": ("image_registry.cli.worker:worker", "Run a worker alone."),
    "gateway": ("image_registry.cli.gateway:gateway", "Run the REST gateway (Envoy) alone."),
    "migrate": ("image_registry.cli.migrate:migrate", "Bring a database to the schema of this version."),
    "images": ("image_registry.cli.images:images", "Make, find, look at, rebuild and remove images."),
    "jobs": ("image_registry.cli.jobs:jobs", "Look at builds, read their logs, stop them."),
    "ensure": ("image_registry.cli.ensure:ensure", "See to it that every Python has its system image."),
    "keys": ("image_registry.cli.keys:keys", "Make, list and revoke API keys."),
    "doctor": ("image_registry.cli.doctor:doctor", "Check the installation and say what to mend."),
    "gc": ("image_registry.cli.gc:gc", "Find, and remove, what belongs to no image."),
    "completion": ("image_registry.cli.completion:completion", "Print the completion script of a shell."),
}
FAULTS = ("StartError", "SettingsError", "RegistryError", "MigrationError")  # what a person can mend, in one sentence


class LazyGroup(click.Group):
    """A group whose commands are named in a table and imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name; None: there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table as the help's lists of commands; what stands in no section comes last."""
        others = tuple(name for name in COMMANDS if not any(name in names for names in SECTIONS.values()))
        for title, names in (*SECTIONS.items(), ("Others", others)):
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, COMMANDS[name][1]) for name in names])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="image-registry")
def cli() -> None:
    """The managed image registry: makes, keeps and finds container images with the libraries you need.

    `up` runs the whole product on this machine; `serve`, `worker` and `gateway` run one part of it each, for
    deployments. `images` and `jobs` use a running service, here or elsewhere: --server, IMAGE_REGISTRY_SERVER or the
    configuration file say where.

    \b
    A first image:
      image-registry up
      image-registry images create hello --pip 'numpy>=1.26' --wait

    docs/reference/cli.md lists exit codes and the configuration file of callers, docs/reference/configuration.md the
    IMAGE_REGISTRY_… variables of the service.
    """


def main() -> None:
    """Entry point: what a person did wrong becomes one sentence and exit code 1; `exits.py` has the other codes."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        fault = _fault(error)
        if fault is None:
            raise
        click.echo(f"error: {fault}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _fault(error: BaseException) -> BaseException | None:
    """The fault that a person can mend in what was raised; None: it is a fault of the program."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _fault(each))), None)
    return error if type(error).__name__ in FAULTS else None
