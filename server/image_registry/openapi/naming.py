"""Schema names as grpc-gateway's OpenAPI plugin gives them, which are the names on the published page.

The rule is the plugin's `legacy` one: of a full name, as many parts from the end as make it unique among all messages
and enums, and one more, written without dots. `rime.ManagedImage.PipRequirement` is ManagedImagePipRequirement;
`rime.ManagedImage.Status` is rimeManagedImageStatus, because there is a `google.rpc.Status` too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

# On the published page these two carry their package as well: the vendor's larger API has another StressTest and
# another ContinuousIncrementalTest.
_PUBLISHED = {
    "rime.JobData.StressTest": "rimeJobDataStressTest",
    "rime.JobData.ContinuousIncrementalTest": "rimeJobDataContinuousIncrementalTest",
}


def schema_names(full_names: Iterable[str]) -> dict[str, str]:
    """The schema's name of each message or enum, by full name."""
    split = {name: name.split(".") for name in full_names}
    endings = Counter(tuple(parts[-depth:]) for parts in split.values() for depth in range(1, len(parts) + 1))
    return {name: _PUBLISHED.get(name) or _shortest(parts, endings) for name, parts in split.items()}


def _shortest(parts: list[str], endings: Counter[tuple[str, ...]]) -> str:
    for depth in range(1, len(parts)):
        if endings[tuple(parts[-depth:])] == 1:
            return "".join(parts[-depth - 1 :])
    return "".join(parts)
