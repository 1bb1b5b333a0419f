"""What README and tutorial tell a reader to type, typed: every shell and Python block, in order, on a real product.

The product listens on ports of its own here, so addresses are replaced; and the lines that install or start it are left
out, because the test has done that.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.base_image import TestBase
from tests.fixtures.product import Product, clean_environment, running_product

REPOSITORY = Path(__file__).parents[2]
TUTORIAL = REPOSITORY / "docs" / "tutorial" / "first-image.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DONE_BY_THE_TEST = {"make install system-tools", "make run", "make test", "image-registry up"}
BLOCK_SECONDS = 150.0
STRICT = 'set -euo pipefail\ncurl() { command curl --fail "$@"; }\n'  # an answer that is no success counts as a failure

pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Block:
    """A block of code as it stands in a page."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Those that a reader is to run."""
    found = [Block(language, text) for language, text in BLOCK.findall(page.read_text())]
    return [block for block in found if block.language in {"sh", "python"}]


@pytest.fixture(scope="module")
def product(debian_base: TestBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    bases = f"{debian_base.python_version}={debian_base.reference}"
    with running_product(tmp_path_factory.mktemp("product") / "data", BASE_IMAGES=bases) as running:
        yield running


def run(block: Block, product: Product) -> str:
    """What the block prints; fails if it fails."""
    text = block.text.replace("127.0.0.1:50051", product.grpc_address).replace("127.0.0.1:8080", product.http_address)
    lines = [line for line in text.splitlines() if line not in DONE_BY_THE_TEST]
    program = [sys.executable, "-"] if block.language == "python" else ["bash"]
    environment = clean_environment(SERVER=product.grpc_address, DATA_DIR=str(product.data_dir))
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        program,
        input=("" if block.language == "python" else STRICT) + "\n".join(lines) + "\n",
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=BLOCK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{product.logs()}"
    return done.stdout


def output_of(page: Path, product: Product) -> str:
    return "\n".join(run(block, product) for block in blocks(page))


def test_the_tutorial_does_what_it_says(product: Product) -> None:
    output = output_of(TUTORIAL, product)
    assert "READY" in output
    assert '"pipLibraries"' in output  # over REST
    assert re.search(r"^first READY \d", output, re.MULTILINE)  # the Python client
    assert "exit code 5" in output
    assert "no-such-library-of-this-name" in output  # the log says what couldn't be found


def test_the_readme_does_what_it_says(product: Product) -> None:
    assert len(blocks(REPOSITORY / "README.md")) == 5
    output = output_of(REPOSITORY / "README.md", product)
    assert "vision" in output
    assert '"repoUri"' in output
