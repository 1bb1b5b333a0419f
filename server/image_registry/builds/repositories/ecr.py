"""AWS ECR: a repository is made before its first push and removed as a whole; needs the extra `image-registry[ecr]`.

The API is documented at https://docs.aws.amazon.com/AmazonECR/latest/APIReference/. boto3 finds the machine's identity
and the API's address by its own rules (AWS_… variables, profiles, roles of containers and machines).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from image_registry.builds.credentials import Keyring, Login, NoLoginError
from image_registry.builds.faults import UnavailableError
from image_registry.builds.lease import StopSign
from image_registry.builds.oci.push import RegistryRepository
from image_registry.builds.oci.reference import RegistryReference
from image_registry.builds.oci.registry import RegistryClient
from image_registry.builds.repositories.registries import RegistryHome

_HOST = re.compile(r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_ATTEMPTS = 4
_UNTAGGED_DAYS = 14
# What a rebuild leaves without a tag may still be pulled by its digest for a while.
_LIFECYCLE = {
    "rules": [
        {
            "rulePriority": 1,
            "description": "builds that were replaced",
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": _UNTAGGED_DAYS,
            },
            "action": {"type": "expire"},
        }
    ]
}
_THROTTLED = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}


def is_ecr(host: str) -> bool:
    """Whether a host is a private registry of ECR."""
    return _HOST.fullmatch(host) is not None


def ecr_login(host: str) -> Login | None:
    """Return a login of the machine's AWS identity, which lives for 12 hours; None: the host is not ECR's.

    Raises NoLoginError, UnavailableError.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    with _told(host):
        [data] = _client(found[2]).get_authorization_token()["authorizationData"]
    username, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return Login(username, password, data["expiresAt"].timestamp())


class EcrHome(RegistryHome):
    """Repositories of one account and region, below the path of `root`. See Home."""

    _keeps_empty = True
    _remedy = (
        "give the worker an AWS identity (a role, or AWS_… variables) that may create, list, delete, push to and pull "
        "from repositories below the prefix, and set their lifecycle policies"
    )

    def __init__(self, root: RegistryReference, keyring: Keyring) -> None:
        super().__init__(root, keyring)
        found = _HOST.fullmatch(root.host)
        if found is None:
            raise ValueError(f"{root.host} is not a registry of ECR")
        self._account, self._region = found.groups()

    def _make(self, name: str) -> None:
        with self._api() as api:
            named = {"registryId": self._account, "repositoryName": name}
            try:
                api.create_repository(**named, tags=[{"Key": "made-by", "Value": "image-registry"}])
            except api.exceptions.RepositoryAlreadyExistsException:
                try:
                    api.get_lifecycle_policy(**named)
                except api.exceptions.LifecyclePolicyNotFoundException:  # whoever made it didn't come that far
                    pass
                else:
                    return
            api.put_lifecycle_policy(**named, lifecyclePolicyText=json.dumps(_LIFECYCLE))

    def _remove(self, found: RegistryRepository, name: str, owner: str, stop: StopSign) -> bool:
        def once() -> bool:
            return self._remove_whole(name, stop, attempts=1, force=True)  # AWS's library wouldn't look between two

        return found.while_owned(owner, once, f"repository {name}")

    def _remove_empty(self, name: str, stop: StopSign) -> bool:
        return self._remove_whole(name, stop)

    def _remove_whole(self, name: str, stop: StopSign, *, attempts: int = _ATTEMPTS, force: bool = False) -> bool:
        with self._api(attempts) as api:
            stop.check()
            try:
                api.delete_repository(registryId=self._account, repositoryName=name, force=force)
            except (api.exceptions.RepositoryNotFoundException, api.exceptions.RepositoryNotEmptyException):
                return False  # not empty: somebody has begun to push into what had nothing a moment ago
            return True

    def _names(self, client: RegistryClient) -> list[str]:  # noqa: ARG002
        with self._api() as api:
            pages = api.get_paginator("describe_repositories").paginate(registryId=self._account)
            return [repository["repositoryName"] for page in pages for repository in page["repositories"]]

    @contextmanager
    def _api(self, attempts: int = _ATTEMPTS) -> Iterator[Any]:
        try:
            with _told(self._root.host):
                yield _client(self._region, attempts)
        except NoLoginError as error:
            raise UnavailableError(str(error), 401) from None


def _client(region: str, attempts: int = _ATTEMPTS) -> Any:
    try:
        import boto3  # noqa: PLC0415 (an extra)
        from botocore.config import Config  # noqa: PLC0415
    except ModuleNotFoundError:
        raise NoLoginError("boto3 is not installed: pip install 'image-registry[ecr]'") from None
    patience = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": attempts})
    return boto3.session.Session().client("ecr", region_name=region, config=patience)


@contextmanager
def _told(host: str) -> Iterator[None]:
    """Turn what AWS and its library say into NoLoginError or UnavailableError."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError  # noqa: PLC0415
        from botocore.exceptions import ConnectionError as NoConnectionError  # noqa: PLC0415
    except ModuleNotFoundError:
        raise NoLoginError("boto3 is not installed: pip install 'image-registry[ecr]'") from None
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _THROTTLED or status >= 500:
            raise UnavailableError(f"the API of {host}: {code}", 429) from error
        if code.endswith("RepositoryNotFoundException"):
            raise UnavailableError(f"the API of {host}: {code}", 404) from error
        raise NoLoginError(f"AWS answers {code} to {error.operation_name}") from None
    except (HTTPClientError, NoConnectionError) as error:
        raise UnavailableError(f"the API of {host}: {type(error).__name__}") from error
    except BotoCoreError as error:  # no credentials, half of them, a profile that isn't there
        raise NoLoginError(f"AWS: {error}") from None
