"""What becomes of the resolver's words and of its lock."""

import json

import pytest

from image_registry.builds.plan import BuildFailed, FailureReason, PackageIndex
from image_registry.builds.platforms import Target
from image_registry.builds.resolve import Question, explain, read_lock

TARGET = Target("3.11.2", "amd64", "glibc", (2, 36))
INDEX = PackageIndex(url="https://user:secret@index.example/simple")


def test_explanation_keeps_the_causes_and_loses_addresses() -> None:
    text = (
        "error: No solution found when resolving dependencies\n"
        "  cause: Because a==1 depends on b>=2 and you require b<2,\n"
        "         we can conclude that your requirements are unsatisfiable.\n"
        "\n"
        "hint: `x` was found on https://user:secret@index.example/simple/x/, but not at the requested version\n"
        "hint: Wheels are required for `x` because building is disabled (i.e., with `--no-build`)\n"
    )
    assert explain(text).splitlines() == [
        "No solution found when resolving dependencies",
        "Because a==1 depends on b>=2 and you require b<2,",
        "         we can conclude that your requirements are unsatisfiable.",
        "hint: `x` was found on <index>/x, but not at the requested version",
    ]


@pytest.mark.parametrize(
    "address",
    [
        "https://user:secret@index.example/simple/lib/",
        "http://index.example:8080/simple",
        "HTTPS://INDEX.EXAMPLE/x?token=secret",
        "https://user:secret@index.example",
    ],
)
def test_no_host_and_no_secret_is_told(address: str) -> None:
    told = explain(f"error: Failed to fetch: `{address}`\n  cause: error sending request for url ({address})\n")
    assert "index.example" not in told.lower()
    assert "secret" not in told


def lock_of(**wheel: object) -> str:
    values = {
        "url": "/files/lib-1.0-py3-none-any.whl",
        "hashes": {"sha256": "0" * 64},
        **{name: value for name, value in wheel.items() if value is not None},
    }
    body = ", ".join(f"{name} = {_toml(value)}" for name, value in values.items())
    return f'lock-version = "1.0"\n[[packages]]\nname = "Lib"\nversion = "1.0"\nwheels = [{{ {body} }}]\n'


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(item)}' for name, item in value.items())} }}"
    return json.dumps(value)


def question(**pins: str) -> Question:
    return Question(("lib",), pins, TARGET)


def test_lock_is_read() -> None:
    (wheel,) = read_lock(lock_of(size=7), question(), INDEX)
    assert (wheel.name, wheel.version, wheel.filename, wheel.size) == ("lib", "1.0", "lib-1.0-py3-none-any.whl", 7)
    assert wheel.url == "https://index.example/files/lib-1.0-py3-none-any.whl"


def test_libraries_of_the_base_are_left_out() -> None:
    assert read_lock(lock_of(), question(lib="1.0"), INDEX) == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("not toml", "can't be read"),
        ('[[packages]]\nname = "lib"\n', "can't be read"),
        (lock_of(hashes={"md5": "0"}), "no SHA-256"),
        (lock_of(hashes={"sha256": "../../x"}), "no SHA-256"),
        (lock_of(url="/files/lib-1.0-cp312-cp312-win_amd64.whl"), "no wheel of lib"),
        ('[[packages]]\nname = "lib"\nversion = "1"\nsdist = { url = "x" }\n', "no wheel of lib"),
        ('[[packages]]\nname = "lib"\nversion = "1"\nvcs = { type = "git", url = "x" }\n', "no wheel of lib"),
        ('[[packages]]\nname = "lib"\nversion = "1"\ndirectory = { path = "/x" }\n', "no wheel of lib"),
    ],
)
def test_locks_that_cannot_be_used(text: str, problem: str) -> None:
    with pytest.raises(BuildFailed, match=problem) as caught:
        read_lock(text, question(), INDEX)
    assert caught.value.reason is FailureReason.INTERNAL


def test_context_tells_questions_apart() -> None:
    questions = [
        question(),
        question(lib="1.0"),
        Question(("lib>1",), {}, TARGET),
        Question(("lib",), {}, Target("3.11.3", "amd64", "glibc", (2, 36))),
        Question(("lib",), {}, Target("3.11.2", "arm64", "glibc", (2, 36))),
        Question(("lib",), {}, Target("3.11.2", "amd64", "musl", (1, 2))),
    ]
    assert len({one.context for one in questions}) == len(questions)
    assert Question(("b", "a"), {}, TARGET).context == Question(("a", "b"), {}, TARGET).context
