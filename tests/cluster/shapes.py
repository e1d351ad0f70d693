"""The fields of Kubernetes' and KubeRay's objects that `infra/` may use, by hand from their API
references (KubeRay 1.6). Whatever else a manifest says is an error here; a server drops a misspelt
key, or refuses it at the first start.

`python -m tests.cluster.crds FOLDER` holds the same files against KubeRay's whole schema.
"""

from __future__ import annotations

from typing import Any

Shape = dict[str, Any]

TEXT: Shape = {"type": "string", "minLength": 1}
WHOLE: Shape = {"type": "integer", "minimum": 0}
FLAG: Shape = {"type": "boolean"}
QUANTITY: Shape = {"type": "string", "pattern": r"^\d+(m|Ki|Mi|Gi|Ti)?$"}
NAME: Shape = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
PORT: Shape = {"type": "integer", "minimum": 1, "maximum": 65535}
TEXTS: Shape = {"type": "object", "additionalProperties": {"type": "string"}}


def thing(needs: str = "", **fields: Shape) -> Shape:
    """An object with these fields and no others; `needs` names those that must be there."""
    shape = {"type": "object", "properties": fields, "additionalProperties": False}
    return {**shape, "required": needs.split()}


def many(item: Shape) -> Shape:
    """A list that is not empty."""
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values: str) -> Shape:
    """One of these words."""
    return {"enum": list(values)}


METADATA = thing(name=NAME, generateName=TEXT, labels=TEXTS, annotations=TEXTS)
SELECTOR = thing("matchLabels", matchLabels=TEXTS)
AMOUNTS = {"type": "object", "additionalProperties": QUANTITY}
REFERENCE = thing("name key", name=NAME, key=TEXT, optional=FLAG)

CONTAINER = thing(
    "name image resources",
    name=NAME,
    image=TEXT,
    ports=many(thing("containerPort name", containerPort=PORT, name=NAME)),
    resources=thing("requests limits", requests=AMOUNTS, limits=AMOUNTS),
    # A value of its own is for what may be read by all; a secret comes by reference.
    env=many(thing("name", name=TEXT, value=TEXT, valueFrom=thing(secretKeyRef=REFERENCE))),
    volumeMounts=many(thing("name mountPath", name=NAME, mountPath=TEXT, readOnly=FLAG)),
)
VOLUME = thing(
    "name",
    name=NAME,
    emptyDir=thing(medium=one_of("Memory"), sizeLimit=QUANTITY),
    configMap=thing("name", name=NAME),
    secret=thing("secretName", secretName=NAME, optional=FLAG, defaultMode=WHOLE),
)
TOLERATION = thing(
    "key operator effect",
    key=TEXT,
    operator=one_of("Exists", "Equal"),
    value=TEXT,
    effect=one_of("NoSchedule", "NoExecute"),
)
POD = thing(
    "containers restartPolicy",
    restartPolicy=one_of("Never"),
    securityContext=thing(fsGroup=WHOLE, runAsUser=WHOLE, runAsNonRoot=FLAG),
    nodeSelector=TEXTS,
    tolerations=many(TOLERATION),
    containers=many(CONTAINER),
    volumes=many(VOLUME),
)
TEMPLATE = thing("metadata spec", metadata=METADATA, spec=POD)
HEAD = thing("rayStartParams template", rayStartParams=TEXTS, template=TEMPLATE)
WORKERS = thing(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=NAME,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    rayStartParams=TEXTS,
    labels=TEXTS,
    template=TEMPLATE,
)
CLUSTER = thing(
    "rayVersion authOptions headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    authOptions=thing("mode secretName", mode=one_of("token"), secretName=NAME),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=thing(
        version=one_of("v2"),
        upscalingMode=one_of("Default", "Conservative", "Aggressive"),
        idleTimeoutSeconds=WHOLE,
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs={**many(WORKERS), "maxItems": 7},  # Kueue's limit beside the head
)
JOB = thing(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=WHOLE,
    backoffLimit=WHOLE,
    rayClusterSpec=CLUSTER,
)
PEER = thing(podSelector=SELECTOR, namespaceSelector=SELECTOR)
POLICY = thing(
    "podSelector policyTypes ingress",
    podSelector=SELECTOR,
    policyTypes=many(one_of("Ingress", "Egress")),
    ingress=many(
        thing(
            "from",
            **{"from": many(PEER)},
            ports=many(thing("protocol port", protocol=one_of("TCP"), port=PORT)),
        )
    ),
)


def top(version: str, **fields: Shape) -> Shape:
    """A whole object of one API version."""
    needs = "apiVersion kind metadata" + (" spec" if "spec" in fields else "")
    return thing(needs, apiVersion={"const": version}, kind=TEXT, metadata=METADATA, **fields)


KINDS = {
    "RayCluster": top("ray.io/v1", spec=CLUSTER),
    "RayJob": top("ray.io/v1", spec=JOB),
    "NetworkPolicy": top("networking.k8s.io/v1", spec=POLICY),
    "Secret": top("v1", type=one_of("Opaque")),  # no data: a manifest holds no secret
}
