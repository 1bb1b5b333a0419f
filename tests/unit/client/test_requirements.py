"""Requirements as people write them."""

import pickle

import pytest

from image_registry.client import (
    ImageRegistryClient,
    PackageRequirement,
    PackageType,
    PipLibrary,
    PipLibraryFilter,
    PipRequirement,
)
from image_registry.client.requirements import (
    RequirementError,
    as_list,
    library,
    library_filter,
    package_requirement,
    pip_requirement,
)


@pytest.mark.parametrize(
    ("text", "name", "specifier"),
    [
        ("numpy", "numpy", ""),
        ("numpy>=1.26", "numpy", ">=1.26"),
        (" numpy >= 1.26, < 2 ", "numpy", ">= 1.26, < 2"),
        ("uvicorn[standard]", "uvicorn[standard]", ""),
        ("uvicorn [ standard, extra ] ==0.30", "uvicorn[extra,standard]", "==0.30"),
        ("ruamel.yaml~=0.18", "ruamel.yaml", "~=0.18"),
        ("numpy (>=1.2)", "numpy", ">=1.2"),
        ("numpy==1.*", "numpy", "==1.*"),
    ],
)
def test_a_pip_requirement_is_parted_into_name_and_specifier(text: str, name: str, specifier: str) -> None:
    assert pip_requirement(text) == PipRequirement(name, specifier)


def test_a_typed_requirement_passes_as_it_is() -> None:
    typed = PipRequirement("numpy", "1.0.2")
    assert pip_requirement(typed) is typed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must name a library"),
        ("--index-url x", "options aren't taken"),
        ("git+https://example.org/x.git", "URLs aren't taken"),
        ("https://example.org/x.whl", "URLs aren't taken"),
        ("x @ https://example.org/x.whl", "files and folders aren't taken"),
        ("x @ https://example.org/x", "URLs aren't taken"),
        ("./x", "files and folders aren't taken"),
        ("../x", "files and folders aren't taken"),
        ("/x", "files and folders aren't taken"),
        ("x.whl", "files and folders aren't taken"),
        ("numpy; python_version > '3'", "environment markers"),
        ("numpy=1.2", "a single = compares nothing"),
        ("pandas=>2", "=> compares nothing: write >="),
        ("pandas>=2,=<3", "=< compares nothing: write <="),
        ("pandas<>2", "<> compares nothing: write !="),
        ("pandas!2", "! compares nothing: write !="),
        ("numpy>=1!2.0 x", "must be a library's name"),
        ("numpy>>1", "must be a library's name"),
        ("nump y", "must be a library's name"),
    ],
)
def test_what_is_no_library_of_an_index_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(RequirementError) as caught:
        pip_requirement(text)
    assert why in str(caught.value)
    assert caught.value.text == text


def test_a_requirement_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RequirementError("x", "is no good")))
    assert (error.text, error.why, str(error)) == ("x", "is no good", "'x': is no good")


def test_a_package_may_have_one_exact_version() -> None:
    assert package_requirement("git") == PackageRequirement("git", "", PackageType.APT)
    assert package_requirement("git=1:2.39.5-0+deb12u2") == PackageRequirement("git", "1:2.39.5-0+deb12u2")
    assert package_requirement("git", PackageType.ROCKYLINUX).package_type is PackageType.ROCKYLINUX


@pytest.mark.parametrize("text", ["", "git==1", "git=", "git 1", "git>1"])
def test_a_package_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(RequirementError):
        package_requirement(text)


def test_filters_name_a_library_and_perhaps_a_version() -> None:
    assert library_filter("numpy") == PipLibraryFilter("numpy", None)
    assert library_filter(" numpy == 1.26.4 ") == PipLibraryFilter("numpy", "1.26.4")


@pytest.mark.parametrize("text", ["", "numpy>=1", "numpy==", "numpy==1.*", "numpy=1", "a b"])
def test_filters_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(RequirementError):
        library_filter(text)


def test_a_reported_library_needs_its_version() -> None:
    assert library("pip==24.0") == PipLibrary("pip", "24.0")
    with pytest.raises(RequirementError):
        library("pip")


def test_one_string_in_place_of_a_list_is_caught() -> None:
    with pytest.raises(TypeError, match=r"write \['numpy'\]"):
        as_list("numpy")


def test_a_range_in_a_filter_points_to_where_ranges_are_taken() -> None:
    with pytest.raises(RequirementError, match="version ranges are for find_images"):
        library_filter("numpy>=1.2")


@pytest.mark.parametrize("call", ["create_image", "find_images"])
def test_a_python_version_that_is_a_number_is_told_with_what_to_write(call: str) -> None:
    with ImageRegistryClient("127.0.0.1:1") as registry, pytest.raises(TypeError, match=r"write '3\.11', with quotes"):
        getattr(registry, call)(*["vision"] * (call == "create_image"), ["numpy"], python_version=3.11)
