"""Building images: layers of wheels put on a base image, without a container engine and without running anything.

Nothing of a library, of the base image or of what they bring is executed. Read it in this order:

    plan.py                     what to build, what came of it, why it failed
    runner.py, lease.py         runs one build in a process of its own and cleans up after it
    child.py                    that process
    pipeline.py                 the stages: resolve, fetch, layer, push
    base_image.py, base.py      what a base image holds: Pythons, libc, libraries (read, not run)
    requirement.py, platforms.py, resolve.py
                                which wheels
    libraries.py, download.py, cache.py
                                getting each of them once, and keeping them
    wheel.py, layer.py, targz.py
                                a wheel as an image layer, without compressing anything again
    image.py, destination.py    the new image's config and manifest, and where it goes
    oci/                        manifests, image layouts, registries
    debian.py                   makes a base image where no registry can be reached
    faults.py, files.py, http.py, processes.py
                                what all of them need
"""
