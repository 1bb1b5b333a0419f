"""Listings over REST: how they end for whom, and how large they may be."""

from __future__ import annotations

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry.requirements import library_key, version_key
from tests.fixtures.rest import Rest

PUBLISHED = {"user-agent": "Swagger-Codegen/1.0.0/python"}
LIBRARIES = 300


async def test_the_last_page_repeats_the_token_for_published_clients_alone(rest: Rest) -> None:
    await rest.service.create("one")
    await rest.service.create("two")
    first = (await rest.http.get("/v1/images?pageSize=2")).json()
    token = first["nextPageToken"]
    assert token
    for agent, wanted in ((PUBLISHED, token), ({"user-agent": "curl/8"}, ""), ({}, "")):
        by_get = await rest.http.get(f"/v1/images?pageSize=2&pageToken={token}", headers=agent)
        by_post = await rest.http.post("/v1/images/list", json={"pageSize": "2", "pageToken": token}, headers=agent)
        assert by_get.json()["nextPageToken"] == wanted
        assert by_post.json() == by_get.json()


async def test_a_single_page_has_no_token_for_anybody(rest: Rest) -> None:
    await rest.service.create("one")
    assert (await rest.http.get("/v1/images", headers=PUBLISHED)).json()["nextPageToken"] == ""


async def test_a_thousand_images_with_300_libraries_each(rest: Rest, dsn: str) -> None:
    libraries = [f"library-{number}=={number}.2.3" for number in range(LIBRARIES)]
    await rest.service.create("image-0000")
    await rest.service.report("image-0000", *libraries)
    copy_image(dsn, "image-0000", [f"image-{number:04}" for number in range(1, 999)])

    names: list[str] = []
    token = ""
    while token or not names:
        body = {"pageSize": "1000", "pageToken": token}
        response = await rest.http.post("/v1/images/list", json=body, timeout=60)
        assert response.status_code == 200, response.text[:1000]
        page = response.json()
        names += [image["name"] for image in page["images"]]
        token = page["nextPageToken"]
        assert all(len(image["pipLibraries"]) == LIBRARIES for image in page["images"] if image["name"][0] == "i")
    assert names == [*(f"image-{number:04}" for number in range(999)), "system-python-3-12"]
    filtered = await rest.http.post(
        "/v1/images/list", json={"pageSize": "1000", "pipLibraries": [{"name": "Library_299", "version": "299.2.3"}]}
    )
    assert len(filtered.json()["images"]) == 999


async def test_a_create_whose_answer_is_large(rest: Rest) -> None:
    """As large as the limits of a request allow: what was created must never be answered by an error."""
    specifier = ",".join(f">={number}.{'0' * 20}" for number in range(10))[:250].rstrip(",.>=")
    wanted = [{"name": f"{'library' * 25}{number:03}", "versionSpecifier": specifier} for number in range(500)]
    response = await rest.http.post("/v1/images", json={"name": "large", "pipRequirements": wanted})
    assert response.status_code == 200, response.text[:1000]
    assert response.json()["image"]["pipRequirements"] == wanted
    assert len(response.content) > 200_000


def copy_image(dsn: str, name: str, copies: list[str]) -> None:
    """Make rows like that of an image, libraries included, without as many calls."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        row = connection.execute("select * from images where name = %s", [name]).fetchone()
        assert row is not None
        image = pb.ManagedImage.FromString(row.pop("definition"))
        for generated in ("id", "name"):
            row.pop(generated)
        columns = sql.SQL(", ").join(map(sql.Identifier, row))
        insert = sql.SQL("insert into images (name, definition, {}) select %s, %s, {} from images where name = %s")
        definitions = []
        for copy in copies:
            image.name = copy
            definitions.append((copy, image.SerializeToString(), name))
        connection.cursor().executemany(insert.format(columns, columns), definitions)
        keys = {library_key(one.name): version_key(one.version)[0] for one in image.pip_libraries}
        connection.execute(
            "insert into image_libraries (library, image_name, version) select l.library, i.name, l.version"
            " from unnest(%s::text[], %s::text[]) as l (library, version), unnest(%s::text[]) as i (name)",
            [list(keys), list(keys.values()), copies],
        )
