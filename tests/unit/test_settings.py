"""Configuration: what is read, what is refused and how, and that the page tells the same."""

from pathlib import Path

import pytest

from image_registry.models import PackageType
from image_registry.settings import OFFICIAL_BASES, SettingsError, configuration_page, load, split_requirement

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os  # noqa: PLC0415

    for name in list(os.environ):
        if name.startswith("IMAGE_REGISTRY_"):
            monkeypatch.delenv(name)


def test_the_defaults() -> None:
    settings = load()
    assert settings.base_images == OFFICIAL_BASES
    assert settings.python_versions == ("3.9", "3.10", "3.11", "3.12", "3.13")
    assert settings.chosen_python == "3.13"
    assert settings.repository_root.startswith("oci:/")
    assert settings.repository_root.endswith("/images/managed")


def test_the_environment_is_read_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_REGISTRY_BASE_IMAGES", "3.9=a, 3.12=b:1")
    monkeypatch.setenv("IMAGE_REGISTRY_PLATFORM_REQUIREMENTS", "numpy>=1,<2, uvicorn[standard,http] ,pandas")
    monkeypatch.setenv("IMAGE_REGISTRY_BASE_PACKAGES", "rockylinux")
    monkeypatch.setenv("IMAGE_REGISTRY_REPOSITORY", "oci:/srv/")
    settings = load(grpc_address="[::1]:1", http_address=None)
    assert settings.base_images == {"3.9": "a", "3.12": "b:1"}
    assert settings.platform_requirements == ("numpy>=1,<2", "uvicorn[standard,http]", "pandas")
    assert settings.base_packages is PackageType.ROCKYLINUX
    assert settings.repository_root == "oci:/srv/managed"
    assert settings.grpc_address == "[::1]:1"
    assert settings.http_address == "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("BASE_IMAGES", "3.11", "'3.11' must be written as X.Y=image"),
        ("BASE_IMAGES", "2.7=x", "'2.7' must be a Python version X.Y"),
        ("BASE_IMAGES", ",", "at least one Python version"),
        ("BASE_PACKAGES", "brew", "must be APT or ROCKYLINUX"),
        ("REPOSITORY", "/srv", "must be oci: and an absolute folder"),
        ("REPOSITORY", "https://registry.example", "or a registry without https://"),
        ("REPOSITORY", "team/images", "or a registry without https://"),
        ("REPOSITORY", "registry.example/Team", "or a registry without https://"),
        ("REPOSITORY", "docker.io/me", "can't be Docker Hub, which has no repositories below a prefix"),
        ("REPOSITORY", "europe-docker.pkg.dev/project", "must name project and repository"),
        ("REPOSITORY_USERNAME", "me", "repository_username and repository_password need each other"),
        ("REGISTRY_ENDPOINTS", "localhost:5000", "must be a host and an address such as http://localhost:5000"),
        ("REGISTRY_ENDPOINTS", "a.example=ftp://b", "must be a host and an address"),
        ("REPOSITORY_PREFIX", "../up", "must be lower-case path parts"),
        ("PLATFORM_REQUIREMENTS", "-e .", "must be a distribution name"),
        ("PLATFORM_TAG", "a/b", "match pattern"),
        ("POOL_SIZE", "0", "greater than or equal to 1"),
        ("LOG_FORMAT", "xml", "match pattern"),
        ("DEFAULT_PYTHON", "2.7", "is not among 3.9, 3.10"),
    ],
)
def test_a_fault_names_its_variable_and_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"IMAGE_REGISTRY_{variable}", value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert says in str(caught.value)
    assert variable.lower() in str(caught.value).lower()


@pytest.mark.parametrize(
    ("repository", "root", "path"),
    [
        ("registry.example:5000", "registry.example:5000/managed", "managed"),
        ("registry.example/team/images/", "registry.example/team/images/managed", "team/images/managed"),
        ("localhost/x", "localhost/x/managed", "x/managed"),
        ("oci:/srv/images", "oci:/srv/images/managed", "managed"),
        ("europe-docker.pkg.dev/p/r", "europe-docker.pkg.dev/p/r/managed", "p/r/managed"),
    ],
)
def test_registries_and_folders_take_images(repository: str, root: str, path: str) -> None:
    settings = load(repository=repository)
    assert (settings.repository_root, settings.repository_path) == (root, path)


def test_secrets_come_from_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "image_registry_database_url").write_text("postgresql://a:secret@b/c\n")
    (tmp_path / "image_registry_platform_tag").write_text("from-the-file")
    monkeypatch.setenv("IMAGE_REGISTRY_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("IMAGE_REGISTRY_PLATFORM_TAG", "from-the-variable")
    settings = load()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://a:secret@b/c"
    assert settings.platform_tag == "from-the-variable"
    monkeypatch.setenv("IMAGE_REGISTRY_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"IMAGE_REGISTRY_SECRETS_DIR: .* is not a folder"):
        load()


def test_the_login_of_the_registry_is_a_secret() -> None:
    login = {"repository_username": "me", "repository_password": "hunter2"}
    settings = load(repository="registry.example", **login)
    assert settings.repository_password is not None
    assert "hunter2" not in repr(settings)
    with pytest.raises(SettingsError, match="is for a registry") as caught:
        load(repository="oci:/srv", **login)
    assert "hunter2" not in str(caught.value)


def test_the_login_in_an_address_that_is_refused_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load(registry_endpoints="docker.io=https://me:my-password@mirror.example.com")
    assert "docker.io=https://…@mirror.example.com must be a host and an address" in str(caught.value)


def test_where_dockers_config_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load().docker_config_file == tmp_path / ".docker/config.json"
    monkeypatch.setenv("DOCKER_CONFIG", "/elsewhere")
    assert load().docker_config_file == Path("/elsewhere/config.json")
    monkeypatch.setenv("IMAGE_REGISTRY_DOCKER_CONFIG", "/own")
    assert load().docker_config_file == Path("/own/config.json")


def test_all_faults_are_told_at_once_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_REGISTRY_POOL_SIZE", "many")
    monkeypatch.setenv("IMAGE_REGISTRY_LEASE", "-1")
    monkeypatch.setenv("IMAGE_REGISTRY_DATABASE_URL", "postgresql://u:hunter2@h/d")
    with pytest.raises(SettingsError) as caught:
        load()
    assert len(str(caught.value).splitlines()) == 2
    assert "hunter2" not in str(caught.value)
    monkeypatch.delenv("IMAGE_REGISTRY_POOL_SIZE")
    monkeypatch.delenv("IMAGE_REGISTRY_LEASE")
    assert "hunter2" not in repr(load())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("numpy", ("numpy", "")),
        (" numpy >= 1 , <2 ", ("numpy", ">= 1 , <2")),
        ("uvicorn[standard]==1", ("uvicorn[standard]", "==1")),
        ("a [b,c] ~=1.0", ("a [b,c]", "~=1.0")),
    ],
)
def test_a_requirement_is_parted_into_name_and_specifier(text: str, parts: tuple[str, str]) -> None:
    assert split_requirement(text) == parts


def test_the_page_is_current() -> None:
    page = (REPOSITORY / "docs/reference/configuration.md").read_text()
    assert page == configuration_page(), "run make generate"
