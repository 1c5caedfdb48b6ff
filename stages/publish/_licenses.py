"""The license of a whole, in the hub's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HUB_IDS: Final = frozenset(
    {
        *("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "cc-by-sa-3.0"),
        *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by", "bsd-3-clause"),
    }
)


def license_fields(licenses: Mapping[str, int]) -> dict[str, str]:
    """`license`, and `license_name` where the hub has no id for it.

    Args:
        licenses: Rows under each license.
    """
    names = sorted(licenses)
    if len(names) == 1 and names[0].lower() in HUB_IDS:
        return {"license": names[0].lower()}
    if names in ([], ["unknown"]):
        return {"license": "unknown"}
    return {"license": "other", "license_name": " AND ".join(names)}
