"""Building images: layers of wheels put on a base image, without a container engine and without running anything.

Nothing of a library, of the base image or of what they bring is executed. Read it in this order:

    plan.py        what to build, what came of it, why it failed
    runner.py      runs one build in a process of its own and cleans up after it
    child.py       that process
    pipeline.py    the stages: resolve, fetch, layer, push
    base.py        what a base image holds: Pythons, libc, libraries (read, not run)
    requirement.py, platforms.py, resolve.py    which wheels
    download.py, cache.py                       getting them once, and keeping them
    wheel.py, layer.py                          a wheel as an image layer
    image.py       the new image's config and manifest
    oci/           image layouts and registries
    debian.py      makes a base image where no registry can be reached
"""
