"""What kind of place an image reference points to."""

import pytest

from image_registry.models import ReferenceType
from image_registry.registry.platform import reference_type


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("docker.io/library/python:3.11-slim", ReferenceType.RIME_DOCKERHUB),
        ("index.docker.io/library/python", ReferenceType.RIME_DOCKERHUB),
        ("python:3.11-slim", ReferenceType.RIME_DOCKERHUB),
        ("robustintelligence/base:1", ReferenceType.RIME_DOCKERHUB),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com/base:1", ReferenceType.EXTERNAL_ECR),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/base", ReferenceType.EXTERNAL_ECR),
        ("s3.amazonaws.com/base", ReferenceType.UNSPECIFIED),
        ("europe-docker.pkg.dev/project/repo/base:1", ReferenceType.EXTERNAL_GAR),
        ("oci:/srv/bases/python3.11:latest", ReferenceType.UNSPECIFIED),
        ("registry.example.com/base:1", ReferenceType.UNSPECIFIED),
        ("localhost/base", ReferenceType.UNSPECIFIED),
        ("registry:5000/base", ReferenceType.UNSPECIFIED),
    ],
)
def test_reference_types(reference: str, kind: ReferenceType) -> None:
    assert reference_type(reference) is kind
