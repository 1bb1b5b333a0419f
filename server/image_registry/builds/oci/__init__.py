"""Container images as data: manifests, image layouts on disk, registries.

Specifications: https://github.com/opencontainers/image-spec (1.1), https://github.com/opencontainers/distribution-spec
(1.1), and Docker's image manifest version 2, schema 2.
"""
