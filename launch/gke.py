"""Prints the JobSet that runs a job on TPU slices of a GKE cluster.

  python launch/gke.py NAME --topology v5p:4x4x4 --image IMAGE --claim runs --spot -- \\
      python -m experiments.hgpo --config FILE --workdir /runs/NAME | kubectl apply -f -

Node pools are of machines with 4 chips (ct5lp-hightpu-4t, ct5p-hightpu-4t, ct6e-standard-4t). GKE
tells each pod of TPU node pools who the others are. See docs/launching.md.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml

ACCELERATORS = {  # node labels
  "v4": "tpu-v4-podslice",
  "v5e": "tpu-v5-lite-podslice",
  "v5p": "tpu-v5p-slice",
  "v6e": "tpu-v6e-slice",
}
_CHIPS_PER_HOST = 4
# Of 63 characters in a pod's name, the JobSet controller takes 20 for its own numbers.
_NAME = "[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
_MOST = 100_000
_MEND = 2  # the status of a job that a restart can't help
_GRACE_SECONDS = 300  # from SIGTERM to SIGKILL: a step, and its checkpoint


def jobset(
  name: str, topology: str, slices: int, spot: bool, image: str, claim: str, restarts: int,
  command: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
  """The manifest.

  Args:
    name: of the JobSet.
    topology: of one slice, as `v5p:4x4x4`.
    slices: of that topology.
    spot: take spot node pools.
    image: with this repository and its requirements, see launch/Dockerfile.
    claim: a PersistentVolumeClaim that all pods can write (ReadWriteMany), mounted at /runs.
    restarts: of the whole set, before it counts as failed.
    command: of every pod.

  Raises:
    ValueError: there is no such topology, or Kubernetes takes no such name or number.
  """
  for what, given in (("the name", name), ("--claim", claim)):
    if not re.fullmatch(_NAME, given):
      raise ValueError(
        f"{what} {given!r} is none for Kubernetes: at most 40 lower-case letters, digits and "
        "hyphens, from a letter on"
      )
  if not re.fullmatch(r"[!-~]+", image):
    raise ValueError(f"--image={image!r} is no name of an image")
  if not (1 <= slices <= _MOST and 0 <= restarts <= _MOST):
    raise ValueError(
      f"--slices={slices} --restarts={restarts}: at least 1 slice and 0 restarts, at most {_MOST:,}"
    )
  kind, _, shape = topology.partition(":")
  if kind not in ACCELERATORS:
    raise ValueError(f"--topology={topology}: {kind!r} is none of {', '.join(ACCELERATORS)}")
  if not re.fullmatch("[1-9][0-9]{0,5}(x[1-9][0-9]{0,5}){1,2}", shape):
    raise ValueError(f"--topology={topology}: after the colon stands the shape, as in v5p:4x4x4")
  chips = math.prod(int(size) for size in shape.split("x"))
  if chips > 1 and chips % _CHIPS_PER_HOST:
    raise ValueError(f"--topology={topology}: {chips} chips are no whole number of hosts of 4")
  hosts = math.ceil(chips / _CHIPS_PER_HOST)
  selector = {
    "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[kind],
    "cloud.google.com/gke-tpu-topology": shape,
  }
  tolerations = []
  if spot:
    selector["cloud.google.com/gke-spot"] = "true"
    tolerations = [{
      "key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true",
      "effect": "NoSchedule",
    }]  # fmt: skip
  pod = {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": _GRACE_SECONDS,
    "hostNetwork": True,
    "dnsPolicy": "ClusterFirstWithHostNet",
    "nodeSelector": selector,
    **({"tolerations": tolerations} if tolerations else {}),
    "containers": [{
      "name": "job",
      "image": image,
      "command": list(command),
      "securityContext": {"privileged": True},
      "resources": {"limits": {"google.com/tpu": min(chips, _CHIPS_PER_HOST)}},
      "volumeMounts": [{"name": "runs", "mountPath": "/runs"}],
    }],
    "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}],
  }  # fmt: skip
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {
      "name": name,
      # A slice's pods go to one node pool, and no other slice's.
      "annotations": {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
      },
    },
    "spec": {
      # What is to be mended fails at once; preemptions and crashes restart all pods.
      "failurePolicy": {
        "maxRestarts": restarts,
        "rules": [
          {"name": "mend", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
        ],
      },
      "replicatedJobs": [{
        "name": "slice",
        "replicas": slices,
        "template": {
          "spec": {
            "parallelism": hosts,
            "completions": hosts,
            "backoffLimit": 0,
            "podFailurePolicy": {
              "rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [_MEND]}}
              ]
            },
            "template": {"spec": pod},
          }
        },
      }],
    },
  }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
  argv = list(sys.argv[1:] if argv is None else argv)
  at = argv.index("--") if "--" in argv else len(argv)
  own, command = argv[:at], argv[at + 1 :]
  parser = argparse.ArgumentParser(
    description=__doc__.partition("\n")[0], epilog="After --: the command that each pod runs."
  )
  parser.add_argument("name", help="of the JobSet, as you like")
  parser.add_argument("--topology", required=True, help="of one slice, e.g. v5p:4x4x4")
  parser.add_argument("--slices", type=int, default=1)
  parser.add_argument("--spot", action="store_true", help="cheaper, may be taken away")
  parser.add_argument("--image", required=True, help="built from launch/Dockerfile")
  parser.add_argument("--claim", required=True, help="PersistentVolumeClaim mounted at /runs")
  parser.add_argument("--restarts", type=int, default=100)
  args = parser.parse_args(own)
  if not command:
    parser.error("name the command after --, e.g. -- python -m experiments.hgpo --config FILE")
  try:
    manifest = jobset(
      args.name, args.topology, args.slices, args.spot, args.image, args.claim, args.restarts,
      command,
    )  # fmt: skip
  except ValueError as error:
    parser.error(str(error))
  yaml.safe_dump(manifest, sys.stdout, sort_keys=False)
  return 0


if __name__ == "__main__":
  sys.exit(main())
