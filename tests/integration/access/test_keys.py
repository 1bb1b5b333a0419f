"""Keys: made, kept as hashes, checked by every replica, ended within a second."""

import asyncio
import hashlib
import time
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result

from image_registry.cli.keys import keys as command
from image_registry.errors import Reason, RegistryError
from image_registry.models import Role
from image_registry.registry.keys import KNOWN_FOR, KeyRing, Keys
from image_registry.storage.database import Connection, Database


async def test_a_key_is_256_random_bits_of_which_only_the_hash_is_kept(database: Database) -> None:
    new = await Keys(database).create(Role.MEMBER, name="team a")
    prefix, _, random_part = new.secret.rpartition("_")
    assert prefix == new.stored.prefix
    assert len(bytes.fromhex(random_part)) == 32
    assert new.stored.hash == hashlib.sha256(new.secret.encode()).digest()
    assert random_part not in repr(new)

    async def all_text(conn: Connection) -> str:
        rows = await (await conn.execute("select * from api_keys")).fetchall()
        return repr(rows)

    assert random_part not in await database.read(all_text)
    assert (await KeyRing(database).verify(new.secret)).identity == prefix


@pytest.mark.parametrize("spoil", [lambda k: k[:-1] + ("0" if k[-1] != "0" else "1"), lambda k: k + "0", lambda _: ""])
async def test_what_is_not_exactly_the_key_is_refused(database: Database, spoil: object) -> None:
    new = await Keys(database).create(Role.ADMIN)
    assert await _reason(KeyRing(database), spoil(new.secret)) is Reason.KEY_INVALID  # type: ignore[operator]


async def test_a_new_key_works_at_once_on_a_replica_that_has_just_looked(database: Database) -> None:
    ring = KeyRing(database)
    for _ in range(3):
        new = await Keys(database).create(Role.SYSTEM)
        assert (await ring.verify(new.secret)).role is Role.SYSTEM


async def test_a_revoked_key_is_refused_by_every_replica_within_a_second(database: Database) -> None:
    keys, replicas = Keys(database), [KeyRing(database) for _ in range(3)]
    new = await keys.create(Role.MEMBER)
    for replica in replicas:
        await replica.verify(new.secret)
    await keys.revoke(new.stored.prefix)
    began = time.monotonic()
    for replica in replicas:
        while await _reason(replica, new.secret) is None:
            assert time.monotonic() - began < 1.0
        assert await _reason(replica, new.secret) is Reason.KEY_REVOKED
    again = await keys.revoke(new.secret)  # idempotent, and a whole key is taken for its prefix
    assert again.revoked_at is not None
    with pytest.raises(RegistryError) as caught:
        await keys.revoke("imgreg_00000000")
    assert caught.value.reason is Reason.KEY_NOT_FOUND


@pytest.mark.parametrize("new_changes", [0, 3, 9])
async def test_a_key_that_is_revoked_after_a_failover_that_lost_changes_is_refused(
    database: Database, new_changes: int
) -> None:
    keys, ring = Keys(database), KeyRing(database)
    kept = await keys.create(Role.ADMIN)
    await ring.verify(kept.secret)
    lost = [await keys.create(Role.MEMBER) for _ in range(4)]  # on a primary whose standby never got them
    for key in lost:
        await ring.verify(key.secret)

    async def fail_over(conn: Connection) -> None:
        await conn.execute("delete from api_keys where change > 1")
        await conn.execute("update api_key_changes set newest = 1")

    await database.write(fail_over)
    await keys.revoke(kept.stored.prefix)
    new = [await keys.create(Role.MEMBER) for _ in range(new_changes)]  # fewer, as many, more than were lost
    await asyncio.sleep(KNOWN_FOR)
    assert await _reason(ring, kept.secret) is Reason.KEY_REVOKED
    assert {await _reason(ring, key.secret) for key in lost} == {Reason.KEY_INVALID}
    assert {await _reason(ring, key.secret) for key in new} <= {None}


async def test_expiry(database: Database) -> None:
    now = datetime.now(UTC)
    new = await Keys(database).create(Role.MEMBER, expires_at=now + timedelta(minutes=1))
    ring = KeyRing(database, now=lambda: now)
    await ring.verify(new.secret)
    now += timedelta(minutes=1)
    assert await _reason(ring, new.secret) is Reason.KEY_EXPIRED


async def test_the_state_of_a_key_is_told_only_to_who_has_it(database: Database) -> None:
    keys = Keys(database)
    new = await keys.create(Role.MEMBER)
    await keys.revoke(new.stored.prefix)
    assert await _reason(KeyRing(database), f"{new.stored.prefix}_{'0' * 64}") is Reason.KEY_INVALID


async def test_last_use_is_noted_once_a_minute(database: Database) -> None:
    keys, ring = Keys(database), KeyRing(database)
    new = await keys.create(Role.MEMBER)
    await ring.verify(new.secret)
    await ring.close()
    first = (await keys.everything())[0].last_used_at
    assert first is not None
    other = KeyRing(database)
    for one in (ring, other):
        await one.verify(new.secret)
        await one.close()
    assert (await keys.everything())[0].last_used_at == first


async def test_a_flood_of_guesses_costs_the_database_next_to_nothing(database: Database) -> None:
    ring = KeyRing(database)
    readings = 0
    read = database.read

    async def counted(work: object) -> object:
        nonlocal readings
        readings += 1
        return await read(work)  # type: ignore[arg-type]

    database.read = counted  # type: ignore[assignment, method-assign]
    guesses = [f"imgreg_{number:08x}_{'a' * 64}" for number in range(2000)]
    answers = await asyncio.gather(*(_reason(ring, guess) for guess in guesses))
    assert set(answers) == {Reason.KEY_INVALID}
    assert readings < 10


async def test_nobody_is_let_in_while_the_database_is_away(database: Database) -> None:
    new = await Keys(database).create(Role.ADMIN)
    away = Database("postgresql://127.0.0.1:1/none", size=1, wait=0.2, statement_timeout=1)
    await away.open()
    assert await _reason(KeyRing(away), new.secret) in {Reason.DATABASE_UNAVAILABLE, Reason.OVERLOADED}
    await away.close()


def test_the_command_makes_lists_and_revokes(dsn: str) -> None:
    made = _run(dsn, "create", "--role", "admin", "--name", "ops", "--expires", "30d")
    key = made.stdout.strip()
    prefix = key.rpartition("_")[0]
    assert "only time that the key is shown" in made.stderr
    quiet = _run(dsn, "create", "--role", "member", "--quiet", "--expires", "2099-01-01")
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("imgreg_")
    listed = _run(dsn, "list").stdout
    assert prefix in listed
    assert key not in listed
    assert "ops" in listed
    assert _run(dsn, "revoke", prefix).stdout == f"{prefix} is revoked\n"
    assert "revoked" in _run(dsn, "list").stdout


@pytest.mark.parametrize("when", ["yesterday", "2020-01-01", "0d", "-1d", "999999d999", "9999999999d", "\u0661d"])
def test_an_expiry_that_is_no_time_to_come_is_refused(dsn: str, when: str) -> None:
    result = CliRunner().invoke(
        command, ["create", "--role", "member", f"--expires={when}"], env={"IMAGE_REGISTRY_DATABASE_URL": dsn}
    )
    assert result.exit_code == 2
    assert "30d" in result.stderr


def _run(dsn: str, *arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments, env={"IMAGE_REGISTRY_DATABASE_URL": dsn}, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


async def _reason(ring: KeyRing, key: str) -> Reason | None:
    try:
        await ring.verify(key)
    except RegistryError as error:
        return error.reason
    return None
