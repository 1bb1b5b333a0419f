"""Make an image, watch its build, print where it can be pulled from.

python examples/create_and_wait.py 127.0.0.1:50051 vision 'numpy>=1.26' pandas
"""

import sys

from image_registry.client import (
    AlreadyExistsError,
    BuildFailedError,
    ImageRegistryClient,
    InvalidArgumentError,
    WaitProgress,
)


def show(seen: WaitProgress) -> None:
    """Print how the build stands; called about once a second."""
    print(f"{seen.elapsed:5.1f} s  {seen.job.status if seen.job else seen.image.status}")


if len(sys.argv) < 4:
    sys.exit(f"usage: python {sys.argv[0]} HOST:PORT NAME REQUIREMENT…")
address, name, *requirements = sys.argv[1:]

with ImageRegistryClient(address) as registry:
    try:
        created = registry.create_image(name, requirements)
        print(f"job {created.job.job_id}")
        image = registry.wait(created, timeout=1800, on_progress=show)
    except AlreadyExistsError:
        image = registry.wait(name, timeout=1800)
    except InvalidArgumentError as error:
        sys.exit("\n".join(f"{fault.field}: {fault.description}" for fault in error.faults))
    except BuildFailedError as error:
        sys.exit(f"no image: {error.cause}")

print(f"{image.name} is {image.status}: {image.repo_uri}")
