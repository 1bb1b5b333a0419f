"""Examples in the document. Tests hold them against the schemas, and send the requests to a running service."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_JOB_ID = "0198c0de-7a3f-7c11-9d2b-5e1f6a0c4b21"

PARAMETERS: dict[str, str] = {"name": "vision", "jobId": _JOB_ID, "pageSize": "20"}

_WANTED = [{"name": "numpy", "versionSpecifier": ">=1.26,<3"}, {"name": "pillow", "versionSpecifier": ""}]
_IMAGE: Json = {
    "name": "vision",
    "rimeTag": "2025.11",
    "repoUri": "registry.example.com/managed/vision",
    "status": "STATUS_READY",
    "pipRequirements": _WANTED,
    "pipLibraries": [{"name": "numpy", "version": "2.3.5"}, {"name": "pillow", "version": "12.0.0"}],
    "baseImage": {"name": "system-python-3-12", "referenceType": "REFERENCE_TYPE_MANAGED"},
    "roleType": "ROLE_TYPE_USER_DEFINED",
    "childImages": [],
    "packageRequirements": [],
    "pythonVersion": "3.12",
}
_BUILDING: Json = {**_IMAGE, "status": "STATUS_BUILDING_FIRST_TIME", "pipLibraries": []}
_REQUESTED: Json = {
    "status": "JOB_STATUS_REQUESTED",
    "runningTimeSecs": 0,
    "jobType": "JOB_TYPE_IMAGE_BUILDER",
    "jobId": _JOB_ID,
    "terminationReason": "TERMINATION_REASON_NOT_TERMINATED",
    "jobProgressStr": "",
    "creationTime": "2025-11-23T16:04:05.678901Z",
    "cancellationRequested": False,
}
_FINISHED: Json = {
    **_REQUESTED,
    "status": "JOB_STATUS_SUCCEEDED",
    "runningTimeSecs": 1.284,
    "terminationReason": "TERMINATION_REASON_COMPLETED",
    "startTime": "2025-11-23T16:04:05.691204Z",
    "agentId": {"uuid": "5d3f2c1e-8b7a-4e6d-9c0b-1a2f3e4d5c6b"},
}
_LISTED: Json = {"images": [_IMAGE], "nextPageToken": "xN3tJ0kUqV8cH2sYb1mZ7Q"}

REQUESTS: dict[str, Json] = {
    "ImageRegistry_CreateImage": {
        "name": "vision",
        "pipRequirements": [{"name": "numpy", "versionSpecifier": ">=1.26,<3"}, {"name": "pillow"}],
    },
    "ImageFinder_FindImages": {"pipRequirements": _WANTED, "maxResults": "3"},
    "ImageRegistry_ListImages2": {"pageSize": "20", "pipLibraries": [{"name": "numpy", "version": "2.3.5"}]},
    "ImageRegistry_UpdateBuildInfo": {
        "name": "vision",
        "builtSuccessfully": True,
        "pipLibraries": [{"name": "numpy", "version": "2.3.5"}, {"name": "pillow", "version": "12.0.0"}],
    },
}

RESPONSES: dict[str, Json | str] = {
    "ImageRegistry_CreateImage": {"image": _BUILDING, "job": _REQUESTED},
    "ImageRegistry_GetImage": {"image": _IMAGE},
    "ImageRegistry_ListImages": _LISTED,
    "ImageRegistry_ListImages2": _LISTED,
    "ImageRegistry_DeleteImage": {},
    "ImageRegistry_UpdateBuildInfo": {},
    "ImageLocks_GetImageLock": {
        "baseDigest": "sha256:9c1b0a7e5d3f48126ab7c90d4e5f6a1b2c3d4e5f60718293a4b5c6d7e8f90a1b",
        "digest": "sha256:0f3b7d6c1a5e48927b64d0c3e1f28a95d7406b3c8e12f9a7465d0b3c9e8f1a2d",
        "libraries": [
            {
                "name": "numpy",
                "version": "2.3.5",
                "filename": "numpy-2.3.5-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
                "sha256": "5b6d1f0c2e4a98b7c3d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b",
                "size": "16617336",
            }
        ],
    },
    "ImageFinder_FindImages": {
        "images": [
            {
                "image": _IMAGE,
                "matchingLibraries": [{"name": "numpy", "version": "2.3.5"}, {"name": "pillow", "version": "12.0.0"}],
                "furtherLibraries": "0",
            }
        ]
    },
    "JobReader_ListJobs": {"jobs": [_FINISHED], "nextPageToken": "", "hasMore": False},
    "JobReader_GetJob": {"job": _FINISHED},
    "JobReader_CancelJob": {},
    "JobLogs_ReadJobLogs": "resolving 2 requirements for Python 3.12\nbuilt in 1.28 s, 31.4 MB pushed\n",
}

ERROR: Json = {
    "code": 5,
    "message": "there is no image named 'vision'",
    "details": [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "IMAGE_NOT_FOUND",
            "domain": "image-registry",
            "metadata": {},
        },
        {
            "@type": "type.googleapis.com/google.rpc.ResourceInfo",
            "resourceType": "image",
            "resourceName": "vision",
            "owner": "",
            "description": "there is no image named 'vision'",
        },
    ],
}
