"""The client's page names all that there is."""

import inspect
import re
from pathlib import Path

from image_registry import client

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "python-client.md").read_text(encoding="utf-8")


def methods(kind: type) -> set[str]:
    return {name for name, value in inspect.getmembers(kind, callable) if not name.startswith("_")}


def test_every_method_and_every_exception_is_on_the_page() -> None:
    exceptions = {name for name in client.__all__ if name.endswith("Error") and name != "RequirementError"}
    wanted = methods(client.ImageRegistryClient) - {"close"} | exceptions
    assert {name for name in wanted if not re.search(rf"`{name}\b", PAGE)} == set()


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    sync, aio = client.ImageRegistryClient, client.AsyncImageRegistryClient
    assert methods(sync) == methods(aio)
    for name in methods(sync):
        one, other = (inspect.signature(getattr(kind, name)).parameters for kind in (sync, aio))
        assert list(one) == list(other), name
        assert [p.default for p in one.values()] == [p.default for p in other.values()], name


def test_the_example_on_the_page_is_python() -> None:
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    compile(found[1], "python-client.md", "exec")
