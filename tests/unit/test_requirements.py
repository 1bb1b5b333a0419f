"""The grammar of names, versions and requirements, rule by rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from image_registry import limits
from image_registry import requirements as rules
from image_registry.models import PackageType
from tests.fixtures.budget import examples

APT, YUM = PackageType.APT, PackageType.ROCKYLINUX


@pytest.mark.parametrize("name", ["a", "a1", "vision", "team_a-b2-c", "x-1", "system", "system-python", "a" * 240])
def test_good_image_names(name: str) -> None:
    assert rules.image_name_fault(name, "managed/") is None


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "1a", "-a", "_a", "a-", "a_", "a--b", "a__b", "a-_b", "a.b", "a b", " a", "a\n", "\na", "a\x00"),
        *("a/b", "../a", "a:b", "ä", "\u0430", "a²", "a\u0661", "a\u200b", "A" * 300, "a" * 248, "system-python-3-11"),
    ],
)
def test_bad_image_names(name: str) -> None:
    assert rules.image_name_fault(name, "managed/") is not None


def test_the_prefix_counts_into_the_length_of_the_repository() -> None:
    assert rules.image_name_fault("a" * 200, "p" * 55) is None
    assert rules.image_name_fault("a" * 201, "p" * 55) == (
        "must have at most 200 characters, so that its repository's name fits 255"
    )


@pytest.mark.parametrize(
    "name",
    ["numpy", "N", "zope.interface", "a_b-c.d", "uvicorn[standard]", "uvicorn [a,b]", "x[a, b]", "x[]", "2to3"],
)
def test_good_pip_names(name: str) -> None:
    assert rules.pip_name_fault(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", " numpy", "numpy ", "-e", "-r reqs.txt", "--index-url=http://x", "numpy>=1", "numpy==1", "numpy;x"),
        *("numpy; python_version<'3'", "x @ file:///etc", "x@http://h/x.whl", "git+https://h/r", "./x", "/x", "x/y"),
        *(
            "x\ny",
            "x\r",
            "x\x00",
            "numpy\t",
            "x[",
            "x]",
            "x[a",
            "x[a b]",
            "x[-a]",
            "x[,a]",
            "x[[a]]",
            "x[a][b]",
            "x[a]b",
        ),
        *(
            "num py",
            "_x",
            "x_",
            ".x",
            "x.",
            "x#egg=y",
            "x%00",
            "$HOME",
            "`id`",
            "$(id)",
            "x'y",
            'x"y',
            "nümpy",
            "\uff4eumpy",
        ),
        "x" * 257,
    ],
)
def test_bad_pip_names(name: str) -> None:
    assert rules.pip_name_fault(name) is not None


@pytest.mark.parametrize(
    ("specifier", "means"),
    [
        *(("", ""), ("   ", ""), ("1.0.2", "==1.0.2"), (" 1.0 ", "==1.0"), ("v1.0", "==v1.0"), ("1!2.0", "==1!2.0")),
        *(
            ("1.0rc1", "==1.0rc1"),
            ("1.0+cu118", "==1.0+cu118"),
            (">=1.2,<2", ">=1.2,<2"),
            (">= 1.2 , < 2", ">= 1.2 , < 2"),
        ),
        *(("==1.*", "==1.*"), ("!=1.5", "!=1.5"), ("~=1.4.2", "~=1.4.2"), ("<2", "<2")),
    ],
)
def test_good_specifiers(specifier: str, means: str) -> None:
    assert rules.pip_specifier_fault(specifier) is None
    assert rules.pip_specifier(specifier) == means


@pytest.mark.parametrize(
    "specifier",
    [
        *(
            "latest",
            "1.*",
            "=1",
            "=>1",
            "~=1",
            ">",
            ">=",
            "==",
            "1 2",
            ">=1 <2",
            ",",
            ">=1,",
            ",>=1",
            ">=1,,<2",
            "(>=1)",
        ),
        *("===1.0", "=== anything", ">=1; python_version>'3'", "==1 ; extra=='x'", "@ file:///x", "==1 @ http://h"),
        *(
            ">=1\n--pre",
            "1\n",
            "1\r2",
            "1\x00",
            "--pre",
            "-e .",
            "1\t",
            "^1",
            ">=1||<2",
            "1.0 --hash=sha256:00",
            "\uff11.0",
        ),
        *("*", "==*", ">=1.*", "==1.0+", ">=1.0+local", "1" * 257),
    ],
)
def test_bad_specifiers(specifier: str) -> None:
    assert rules.pip_specifier_fault(specifier) is not None


@pytest.mark.parametrize(("name", "kind"), [("git", APT), ("g++", APT), ("libgomp1", APT), ("x0", APT), ("R", YUM)])
@pytest.mark.parametrize("version", ["", "1:2.39.5-0+deb12u2", "2.43.5-1.el9", "1.0~rc1"])
def test_good_packages(name: str, kind: PackageType, version: str) -> None:
    assert rules.package_name_fault(name, kind) is None
    assert rules.package_version_fault(version, kind) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "Git",
        "git-",
        "-git",
        "git=1",
        "git;x",
        "git x",
        "./git",
        "/x.deb",
        "git/stable",
        "git\n",
        "+x",
        "gït",
        "g*",
    ],
)
def test_bad_apt_names(name: str) -> None:
    assert rules.package_name_fault(name, APT) is not None


@pytest.mark.parametrize(
    "name", ["", "-y", "git-", "@dev", "git x", "git*", "/usr/bin/git", "git\n", "http://h/x.rpm", "."]
)
def test_bad_yum_names(name: str) -> None:
    assert rules.package_name_fault(name, YUM) is not None


@pytest.mark.parametrize("version", ["1 2", "=1", ">=1", "a:1", "1;rm", "1\n", "-1", "*", "1:", ":1", "1*", "$x", "é"])
@pytest.mark.parametrize("kind", [APT, YUM])
def test_bad_package_versions(version: str, kind: PackageType) -> None:
    assert rules.package_version_fault(version, kind) is not None


@pytest.mark.parametrize("name", ["numpy", "Scikit_Learn", "a.b"])
def test_good_filter_names(name: str) -> None:
    assert rules.filter_name_fault(name) is None


@pytest.mark.parametrize("name", ["", "numpy[x]", "numpy ", "a\n", "x" * 257, "é", "-x"])
def test_bad_filter_names(name: str) -> None:
    assert rules.filter_name_fault(name) is not None


@pytest.mark.parametrize(
    ("version", "good"), [(None, True), ("1.0", True), ("", False), ("1.*", False), (">=1", False)]
)
def test_filter_versions(version: str | None, good: bool) -> None:
    assert (rules.filter_version_fault(version) is None) == good


def test_too_long_or_unprintable_text_says_so() -> None:
    assert rules.filter_version_fault("1" * (limits.FIELD + 1)) == f"must have at most {limits.FIELD} characters"
    assert "printable ASCII" in str(rules.filter_version_fault("1\n"))


def test_libraries_are_compared_as_pep_503_says() -> None:
    assert {rules.library_key(name) for name in ("Scikit_Learn", "scikit-learn", "SCIKIT.LEARN", "scikit--learn")} == {
        "scikit-learn"
    }


versions = st.from_regex(
    r"(?:[0-9]{1,2}!)?[0-9]{1,3}(?:\.[0-9]{1,3}){0,3}(?:(?:a|b|rc)[0-9])?(?:\.post[0-9])?(?:\.dev[0-9])?(?:\+[a-z0-9]{1,3}(?:[._-][a-z0-9]{1,3})?)?",
    fullmatch=True,
)


@given(versions, versions)
@examples(150)
def test_versions_are_compared_as_pep_440_says(one: str, two: str) -> None:
    assert (rules.version_key(one) == rules.version_key(two)) == (Version(one) == Version(two))


@pytest.mark.parametrize(
    ("one", "two"), [("1.0", "1.0.0"), ("1.0", "v1"), ("1.0-1", "1.0.post1"), ("1.0+a.b", "1+A-b")]
)
def test_equal_versions_have_one_key(one: str, two: str) -> None:
    assert rules.version_key(one) == rules.version_key(two)


def test_versions_beyond_pep_440_are_compared_letter_by_letter() -> None:
    assert rules.version_key("1.0-Custom_Build ") == ("1.0-custom_build", "")


@given(st.text(max_size=60), st.text(max_size=60))
@examples(200)
def test_whatever_passes_is_one_requirement_without_address_marker_or_option(name: str, specifier: str) -> None:
    if rules.pip_name_fault(name) is None and rules.pip_specifier_fault(specifier) is None:
        assert_harmless(name, specifier)


near_misses = st.lists(
    st.sampled_from([*"numpy[],;@=<>~! .*-+/\n", "1", "2.0", ">=", "==", "===", "x", "git+", "file:", "extra"]),
    max_size=12,
).map("".join)


@given(near_misses, near_misses)
@examples(300)
def test_near_misses_pass_only_if_harmless(name: str, specifier: str) -> None:
    if rules.pip_name_fault(name) is None and rules.pip_specifier_fault(specifier) is None:
        assert_harmless(name, specifier)


def assert_harmless(name: str, specifier: str) -> None:
    written = rules.pip_requirement(name, specifier)
    read = Requirement(written)
    assert read.url is None
    assert read.marker is None
    assert written.isascii()
    assert written.isprintable()
    assert written[0].isalnum()
    assert read.specifier == SpecifierSet(rules.pip_specifier(specifier))
    assert not any(one.operator == "===" for one in read.specifier)
