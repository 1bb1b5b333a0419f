import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from image_registry.builds.plan import BuildFailed, FailureReason
from image_registry.builds.requirement import plain_requirement


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("numpy", "numpy"),
        ("Scikit_Learn", "scikit-learn"),
        ("uvicorn[standard]", "uvicorn[standard]"),
        ("Lib[B,a_b] (>=1,<2)", "lib[a-b,b]<2,>=1"),
        (" numpy == 1.26.* ", "numpy==1.26.*"),
        ("zope.interface~=5.0", "zope-interface~=5.0"),
        ("torch==2.0.0+cpu", "torch==2.0.0+cpu"),
    ],
)
def test_names_extras_and_specifiers_pass(text: str, plain: str) -> None:
    assert plain_requirement(text) == plain


@pytest.mark.parametrize("text", ["lib @ https://example.org/lib.whl", "lib; os_name == 'posix'", "-e .", "", "lib\n"])
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(BuildFailed) as caught:
        plain_requirement(text)
    assert caught.value.reason is FailureReason.USER_ERROR
    assert caught.value.message.isprintable()


@given(st.text())
def test_what_passes_is_one_requirement_without_address_or_marker(text: str) -> None:
    try:
        plain = plain_requirement(text)
    except BuildFailed:
        return
    parsed = Requirement(plain)
    assert parsed.url is None
    assert parsed.marker is None
    assert not plain.startswith(("-", ".", "/"))
    assert not set(plain) & set(" \t\r\n;@#\\/:'\"$`")
