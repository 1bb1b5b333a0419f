"""Who made a key."""

import os

import pytest

from image_registry.cli.keys import _person


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert _person() == "uid 4000000"
    monkeypatch.setenv("LOGNAME", "ada")
    assert _person() == "ada"
