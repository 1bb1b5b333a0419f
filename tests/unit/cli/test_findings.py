"""What the checks of `doctor` find."""

from image_registry.cli.findings import Finding, State, guarded, ok


async def test_an_error_that_a_check_did_not_foresee_is_a_finding() -> None:
    def fails() -> Finding:
        raise PermissionError(13, "Permission denied", "/tmp/x")

    async def fails_later() -> Finding:
        return fails()

    for check in (fails, fails_later):
        found = await guarded("packages", check)
        assert (found.part, found.state) == ("packages", State.BROKEN)
        assert found.text == "can't be looked at: PermissionError: [Errno 13] Permission denied: '/tmp/x'"
    assert await guarded("disk", lambda: ok("disk", "room")) == ok("disk", "room")
