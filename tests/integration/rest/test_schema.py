"""schemathesis: whatever fits the document, and whatever doesn't, gets an answer that the document knows."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.fixtures.rest import Rest

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(300)  # some 15 s on an idle machine
async def test_every_answer_fits_the_document(rest: Rest, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)),
        *("run", f"{rest.url}/openapi.json"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    tried = re.search(r"(\d+) generated, (\d+) passed", output)
    assert tried, output
    assert int(tried[1]) > 300
