"""The `image-registry` command. A subcommand's module is imported when the subcommand is used."""

from __future__ import annotations

import importlib
import sys

import click

COMMANDS = {
    "up": ("image_registry.cli.up:up", "Run the whole product on this machine until Ctrl-C."),
    "serve": ("image_registry.cli.parts:serve", "Run the gRPC server alone."),
    "worker": ("image_registry.cli.parts:worker", "Run a worker alone."),
    "gateway": ("image_registry.cli.parts:gateway", "Run the REST gateway (Envoy) alone."),
    "migrate": ("image_registry.cli.parts:migrate", "Bring a database to the schema of this version."),
    "keys": ("image_registry.cli.keys:keys", "Make, list and revoke API keys."),
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
        """The table as the help's list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="image-registry")
def cli() -> None:
    """The managed image registry: makes, keeps and finds container images with the libraries you need.

    `up` runs the whole product on this machine. The other commands run one part of it each, for deployments.
    Settings come from IMAGE_REGISTRY_… variables; docs/reference/configuration.md lists them.
    """


def main() -> None:
    """Entry point: what a person did wrong becomes one sentence and exit code 1."""
    try:
        cli.main(standalone_mode=True)
    except Exception as error:
        fault = _fault(error)
        if fault is None:
            raise
        click.echo(f"error: {fault}", err=True)
        sys.exit(1)


def _fault(error: BaseException) -> BaseException | None:
    """The fault that a person can mend in what was raised; None: it is a fault of the program."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _fault(each))), None)
    return error if type(error).__name__ in FAULTS else None
