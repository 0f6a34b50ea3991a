"""Estimates what a config will cost on a slice of chips, by ahead-of-time compilation.

  python -m experiments.plan --config experiments/configs/qwen2_5_math_7b_hgpo.py \\
      --topology v5p:4x4x4

It runs on any machine without chips or downloads: shapes come from the config, and the TPU compiler
from the package libtpu (`pip install '.[plan]'`). GPUs, such as h100:8, are estimated from the
program that XLA partitions for as many CPU devices. See docs/scaling.md.
"""

import json
import os
import pathlib
import sys

import jax
from absl import flags

from lhrm_jax import policy
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.planning.chips import Topology
from lhrm_jax.planning.plan import advice, make_plan
from lhrm_jax.planning.programs import PROGRAMS, Programs
from lhrm_jax.planning.show import show
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs import command_line
from lhrm_jax.runs.config import from_config_dict, plain


def main(_) -> None:
  config = from_config_dict(_CONFIG.value)
  with as_user_error(ValueError):
    topology = Topology.parse(_TOPOLOGY.value)
  if not config.policy.vocab_size:
    raise UserError(
      "policy.vocab_size=0: a plan takes all shapes from the config, so set the vocabulary size "
      "(the tokenizer's, rounded up to a multiple of 128): --config.policy.vocab_size=N."
    )
  plans = []
  with as_user_error(ValueError):
    policy_config = PolicyConfig.from_dict(vars(config.policy))
    programs = Programs(config, policy_config, topology)
    # A config that starts from a pretrained model may leave its sizes out.
    print(f"policy.* describes {policy.count_params(programs.policy_shapes()):,} parameters")
    for name in _PROGRAMS.value:
      plans.append(make_plan(programs.make(name), topology))
      show(plans[-1], advice(plans[-1], config, topology), topology)
  if _JSON.value:
    about = {"topology": _TOPOLOGY.value, "config": plain(config)}
    content = {**about, "plans": [plan.to_json() for plan in plans]}
    pathlib.Path(_JSON.value).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
  if not all(plan.fits for plan in plans):
    sys.exit(1)


if __name__ == "__main__":
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # not a TPU VM: there is no metadata server
  os.environ.setdefault(
    "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
  )  # no chip is used: plans may run side by side
  jax.config.update("jax_platforms", "cpu")
  _CONFIG = command_line.define_config()
  _TOPOLOGY = flags.DEFINE_string("topology", None, "Chips, e.g. v5p:4x4x4 or h100:8.")
  command_line.require("topology", "v5p:4x4x4")
  _PROGRAMS = flags.DEFINE_multi_enum("program", list(PROGRAMS), PROGRAMS, "Programs to plan.")
  _JSON = flags.DEFINE_string("json", None, "File that all figures are written to.")
  command_line.run(main)
