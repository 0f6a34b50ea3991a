"""JobSets for TPU slices: valid, and what each case asks of the cluster."""

import json
import pathlib

import jsonschema
import pytest
import yaml

from launch import gke
from lhrm_jax.planning.chips import Topology

SCHEMA = json.loads(pathlib.Path(__file__).with_name("jobset.schema.json").read_text())
COMMAND = ["python", "-m", "experiments.hgpo", "--workdir", "/runs/a b"]


def manifest(capfd, *options: str) -> dict:
  arguments = ["hgpo", "--image", "images/lhrm", "--claim", "shared", *options, "--", *COMMAND]
  assert gke.main(arguments) == 0
  made = yaml.safe_load(capfd.readouterr().out)
  jsonschema.Draft202012Validator(SCHEMA).validate(made)
  return made


@pytest.mark.parametrize(
  ("topology", "accelerator", "hosts", "chips"),
  [
    ("v5e:4x4", "tpu-v5-lite-podslice", 4, 4),
    ("v5p:4x4x4", "tpu-v5p-slice", 16, 4),
    ("v6e:8x8", "tpu-v6e-slice", 16, 4),
    ("v6e:2x2", "tpu-v6e-slice", 1, 4),
    ("v6e:1x1", "tpu-v6e-slice", 1, 1),
  ],
)
def test_one_pod_for_each_host_of_a_slice(capfd, topology, accelerator, hosts, chips):
  made = manifest(capfd, "--topology", topology)
  (slices,) = made["spec"]["replicatedJobs"]
  job = slices["template"]["spec"]
  pod = job["template"]["spec"]
  assert (slices["replicas"], job["parallelism"], job["completions"]) == (1, hosts, hosts)
  assert hosts * chips == Topology.parse(topology).chips
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": accelerator,
    "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
  }
  (container,) = pod["containers"]
  assert container["command"] == COMMAND
  assert container["resources"]["limits"] == {"google.com/tpu": chips}
  assert "tolerations" not in pod


def test_every_slice_gets_a_node_pool_of_its_own(capfd):
  made = manifest(capfd, "--topology", "v5e:4x4", "--slices", "3")
  assert made["spec"]["replicatedJobs"][0]["replicas"] == 3
  assert made["metadata"]["annotations"] == {
    "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
  }


def test_spot_node_pools_are_chosen_and_tolerated(capfd):
  made = manifest(capfd, "--topology", "v5e:4x4", "--spot")
  pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
  assert [t["key"] for t in pod["tolerations"]] == ["cloud.google.com/gke-spot"]


def test_what_a_user_must_mend_is_not_restarted_and_all_else_is(capfd):
  spec = manifest(capfd, "--topology", "v5e:4x4", "--restarts", "7")["spec"]
  assert spec["failurePolicy"]["maxRestarts"] == 7
  (fatal,) = spec["failurePolicy"]["rules"]
  assert (fatal["action"], fatal["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
  job = spec["replicatedJobs"][0]["template"]["spec"]
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
  # Kubernetes wants both with a pod failure policy; a pod alone cannot join a running job again.
  assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")


@pytest.mark.parametrize(
  ("topology", "message"),
  [("v5litepod:4x4", "none of v4, v5e"), ("v5e", "as in v5p:4x4x4"), ("v5e:2x3", "hosts of 4")],
)
def test_a_topology_that_cannot_be_is_refused(capfd, topology, message):
  with pytest.raises(SystemExit):
    gke.main(["hgpo", "--topology", topology, "--image", "i", "--claim", "c", "--", "true"])
  assert message in capfd.readouterr().err


def test_the_schema_catches_a_field_that_is_misspelt(capfd):
  made = manifest(capfd, "--topology", "v5e:4x4")
  job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
  job["backofLimit"] = job.pop("backoffLimit")
  with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
    jsonschema.Draft202012Validator(SCHEMA).validate(made)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--slices=-3"], "at least 1 slice"),
    (["--slices", "0"], "at least 1 slice"),
    (["--slices", "9" * 30], "at most 100,000"),
    (["--restarts=-1"], "0 restarts"),
    (["--claim", "My_Claim"], "none for Kubernetes"),
    (["--image", "a b"], "no name of an image"),
    (["--image", ""], "no name of an image"),
    (["--topology", "v5e:4x"], "as in v5p:4x4x4"),
    (["--topology", "v5e:4x²"], "as in v5p:4x4x4"),
    (["--topology", "v5e:-4x-4"], "as in v5p:4x4x4"),
    (["--topology", "v5e:0x4"], "as in v5p:4x4x4"),
    (["--topology", "v5e:4"], "as in v5p:4x4x4"),
  ],
)
def test_numbers_and_names_that_cannot_be_are_refused(capfd, options, message):
  usual = ["hgpo", "--topology", "v5e:4x4", "--image", "i", "--claim", "c"]
  with pytest.raises(SystemExit):
    gke.main([*usual, *options, "--", "true"])
  shown = capfd.readouterr()
  assert message in shown.err and not shown.out


@pytest.mark.parametrize("name", ["Hgpo", "a b", "a/b", "1st", "a" * 41, "a-", "a\nkind: Pod", ""])
def test_a_name_that_kubernetes_would_refuse_is_refused(capfd, name):
  with pytest.raises(SystemExit):
    gke.main([name, "--topology", "v5e:4x4", "--image", "i", "--claim", "c", "--", "true"])
  assert "none for Kubernetes" in capfd.readouterr().err


def test_arguments_of_any_text_stay_one_argument_each(capfd):
  odd = ["python", "a: b", "- x", "END", "'\"", "{{x}}", "a\nkind: Pod", "#", "é", "yes", "1"]
  usual = ["hgpo", "--topology", "v5e:4x4", "--image", "i", "--claim", "c"]
  assert gke.main([*usual, "--", *odd]) == 0
  made = yaml.safe_load(capfd.readouterr().out)
  pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  assert pod["containers"][0]["command"] == odd
