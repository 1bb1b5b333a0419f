"""The command line against the whole product, with real builds: the example of `up`, a failed build, `doctor`."""

import subprocess
import sys
import time
from pathlib import Path

from tests.fixtures.base_image import TestBase
from tests.fixtures.product import Product, clean_environment, running_product


def run(product: Product, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command as in another terminal: it knows the server, and what `up` was told."""
    environment = clean_environment(SERVER=product.grpc_address, DATA_DIR=str(product.data_dir))
    return subprocess.run(
        [sys.executable, "-m", "image_registry", *arguments],
        env=environment | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def wait_for_line(product: Product, text: str) -> None:
    give_up = time.monotonic() + 120
    while not any(text in line for line in product.lines):
        assert time.monotonic() < give_up, product.logs()
        assert product.process.poll() is None, product.logs()
        time.sleep(0.1)


def test_the_example_and_what_it_says_to_try_next(debian_base: TestBase, tmp_path: Path) -> None:
    bases = f"{debian_base.python_version}={debian_base.reference}"
    with running_product(tmp_path / "data", "--example", BASE_IMAGES=bases) as product:
        wait_for_line(product, "podman run")
        printed = "\n".join(product.lines)
        assert "hello-numpy: building" in printed
        assert "hello-numpy is READY: Python" in printed
        assert "fork" not in printed  # gRPC's complaint about forks beside its threads
        advice = next(line for line in product.lines if "images list --with numpy==" in line)
        found = run(product, *advice.split()[1:], "-o", "name")
        assert (found.returncode, found.stdout) == (0, "hello-numpy\n")

        failed = run(product, "images", "create", "impossible", "--pip", "numpy==0.0.0.1", "--wait")
        assert failed.returncode == 5, failed.stderr
        assert "error: the build of 'impossible' failed in resolve" in failed.stderr
        assert "numpy" in failed.stderr.split("failed in resolve")[1]
        job = run(product, "jobs", "list", "--image", "impossible", "-o", "name").stdout.strip()
        assert "failed in resolve" in run(product, "jobs", "logs", job).stdout

        report = run(product, "doctor", "--http-address", product.http_address)
        assert "BROKEN" not in report.stdout, report.stdout
        assert report.returncode == 0
