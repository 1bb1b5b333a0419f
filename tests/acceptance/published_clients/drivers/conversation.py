"""How a test talks to a published client: a line of JSON in, a line of JSON out, one at a time.

    {"address": "http://127.0.0.1:8080", "key": "", "call": "has", "arguments": {"name": "vision"}}
    {"result": true, "printed": ""}, or {"error": "ValueError", "text": "..."}

Runs in the client's environment, whose packages are old: nothing is imported here but the standard library.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from types import SimpleNamespace

to = SimpleNamespace(address="", key="")  # whom the call that is being made goes to


def serve(calls):
    """Answer calls by the functions in `calls` until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints below Python's level
    for line in sys.stdin:
        request = json.loads(line)
        to.address, to.key = request["address"], request["key"]
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                result = calls[request["call"]](**request["arguments"])
            answer = {"result": result, "printed": printed.getvalue()}
        except Exception as error:  # noqa: BLE001 (the test judges it)
            traceback.print_exc()
            answer = {"error": type(error).__name__, "text": str(error)}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()
