"""Where the service keeps its repositories, seen from outside a build: one interface (`home.py`), several homes.

    layouts.py      a folder of OCI image layouts
    registries.py   any registry that speaks the OCI distribution API
    ecr.py          AWS ECR: repositories are made before a push and removed by its own API
    gar.py          Google Artifact Registry: likewise for its packages
    opening.py      which of them a root means

A build itself pushes through `builds.destination`, in its own process, with the credentials that it is given.
"""
