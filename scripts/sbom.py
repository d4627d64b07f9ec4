"""Print the bill of materials of all that a release may install, in JSON of CycloneDX 1.6 (https://cyclonedx.org).

It is the same for the same lock file and version: no time, and a serial number that follows from the rest. Licences
come from the packages where they are installed.
"""

import json
import re
import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from harmonia_py import __version__

LOCK: Final = Path(__file__).parent.parent / "requirements-extras.lock"
_LOCKED: Final = re.compile(r"^([\w.-]+)==([^\s;]+)[^\n]*\n((?:    --hash=\S+[^\n]*\n?)+)", re.MULTILINE)


def components(lock: str) -> Iterator[dict[str, Any]]:
    """Each package that the lock file names, with the hashes of all its files."""
    for name, version, hashes in _LOCKED.findall(lock):
        url = f"pkg:pypi/{name}@{version}"
        found = re.findall(r"--hash=sha256:([0-9a-f]{64})", hashes)
        component = {
            "type": "library",
            "bom-ref": url,
            "name": name,
            "version": version,
            "purl": url,
            "hashes": [{"alg": "SHA-256", "content": one} for one in found],
        }
        licence = _licence(name)
        yield component | ({"licenses": [licence]} if licence else {})


def _licence(name: str) -> dict[str, Any] | None:
    try:
        about = metadata.metadata(name).json
    except metadata.PackageNotFoundError:
        return None
    expression = about.get("license_expression")
    if expression:
        return {"expression": expression}
    classifiers = [one for one in about.get("classifier", []) if one.startswith("License :: OSI Approved ::")]
    text = classifiers[0].rpartition(" :: ")[2] if classifiers else str(about.get("license", "")).partition("\n")[0]
    return {"license": {"name": text}} if text else None


def bill(lock: str) -> dict[str, Any]:
    """Return the whole document."""
    url = f"pkg:pypi/harmonia-py@{__version__}"
    found = list(components(lock))
    body = {
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": url,
                "name": "harmonia-py",
                "version": __version__,
                "purl": url,
                "licenses": [{"license": {"id": "MIT"}}],
            }
        },
        "components": found,
        "dependencies": [{"ref": url, "dependsOn": [one["bom-ref"] for one in found]}],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    head = {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX"}
    return head | {"specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1} | body


if __name__ == "__main__":
    print(json.dumps(bill(LOCK.read_text()), indent=2))
