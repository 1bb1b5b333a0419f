"""Groups of commands."""

from __future__ import annotations

import click


class InOrder(click.Group):
    """Lists its commands in the order in which they were written, which is that of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names."""
        return list(self.commands)
