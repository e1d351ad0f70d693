"""Hold `infra/` against KubeRay's own schema, every unknown key an error:

    python -m tests.cluster.crds FOLDER

FOLDER has ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of a KubeRay release, which are in
`ray-operator/config/crd/bases` of its repository. They have 2 MB, so the suite has the fields in
short (`shapes.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

INFRA = Path(__file__).parents[2] / "infra"
FILES = {
    "raycluster.yaml": "ray.io_rayclusters.yaml",
    "rayjob.yaml": "ray.io_rayjobs.yaml",
}


def strict(schema: Any) -> Any:
    """Return an OpenAPI schema in which an object has the properties it lists and no others."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(value) for name, value in schema.items()}
    open_ended = closed.get("x-kubernetes-preserve-unknown-fields") is True
    if isinstance(closed.get("properties"), dict) and not open_ended:
        closed.setdefault("additionalProperties", False)
    return closed


def problems(manifest: Path, definition: Path) -> list[str]:
    """Return what of a manifest its CustomResourceDefinition does not allow."""
    versions = yaml.load(definition.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    schema = next(each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1")
    checker = jsonschema.Draft4Validator(strict(schema))
    found = checker.iter_errors(yaml.safe_load(manifest.read_text()))
    return [f"{manifest.name}: {'.'.join(map(str, each.path))}: {each.message}" for each in found]


def main(folder: str) -> int:
    """Print every problem; 1 if there is one."""
    found = [
        problem
        for manifest, definition in FILES.items()
        for problem in problems(INFRA / manifest, Path(folder) / definition)
    ]
    print("\n".join(found) or f"{', '.join(FILES)}: as KubeRay's schema has it")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
