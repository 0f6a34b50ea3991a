"""Plans, made by the real TPU compiler for chips that are not there."""

import json
import math
import os
import re
import subprocess
import sys

import pytest

from lhrm_jax.planning import hlo
from tests.runs.test_command_line import CONFIG, ROOT

VOCAB, WIDTH, RESPONSE = 8192, 256, 32
SIZES = {
  "policy.vocab_size": VOCAB, "policy.hidden_size": WIDTH, "policy.intermediate_size": 512,
  "policy.num_layers": 2, "policy.num_heads": 8, "policy.num_kv_heads": 4,
  "policy.head_dim": 32, "policy.dtype": "bfloat16", "policy.remat": "full",
  "policy.max_positions": 256, "mesh.data": 1, "mesh.fsdp": 8, "mesh.tensor": 2,
  "sampling_mesh.tensor": 2, "hgpo.prompts_per_step": 32, "hgpo.samples_per_mode": 2,
  "hgpo.sampling_chunks": 1, "hgpo.length_buckets": 4, "data.max_prompt_tokens": 64,
  "data.max_response_tokens": RESPONSE,
}  # fmt: skip


def plan(program: str, folder, **changed) -> dict:
  """What `experiments.plan` writes of one program on 16 v5e chips."""
  values = SIZES | {key.replace("__", "."): value for key, value in changed.items()}
  path = folder / "plan.json"
  done = subprocess.run(
    [sys.executable, "-m", "experiments.plan", "--config", CONFIG, "--topology", "v5e:4x4",
     "--program", program, "--json", str(path),
     *(f"--config.{key}={value}" for key, value in values.items())],
    cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    timeout=400, check=False,
  )  # fmt: skip
  assert path.exists(), done.stderr[-3000:]
  (found,) = json.loads(path.read_text())["plans"]
  return found


@pytest.fixture(scope="module")
def update(tmp_path_factory):
  return plan("update", tmp_path_factory.mktemp("update"))


def test_every_parameter_of_the_update_is_sharded(update):
  layer = WIDTH * (8 + 2 * 4 + 8) * 32 + 3 * WIDTH * 512 + 2 * WIDTH
  total = 4 * (VOCAB * WIDTH + 2 * layer + WIDTH)  # float32, tied embeddings
  assert total / 16 <= update["parameters"] <= 1.02 * total / 16
  assert 2 * total / 16 <= update["optimizer"] <= 1.02 * 2 * total / 16


def test_no_chip_ever_gathers_the_table_or_all_logits(update):
  gathered = [c for c in update["collectives"] if c["kind"] == "all-gather"]
  assert gathered, "weights split over fsdp must be gathered, or this test looks at nothing"
  for collective in gathered:
    for dims in re.findall(r"\[([\d,]+)\]", collective["shape"]):
      sizes = [int(d) for d in dims.split(",")]
      assert math.prod(sizes) < VOCAB * WIDTH, collective
      assert not (VOCAB in sizes and len(sizes) > 2), collective


def test_flops_are_those_worked_out_by_hand(update):
  """6 per parameter and token for the passes, 2 more where activations are computed again; all
  responses at full length."""
  matrices = 2 * (WIDTH * (8 + 2 * 4 + 8) * 32 + 3 * WIDTH * 512)
  tokens = 32 * 4 * RESPONSE + 32 * 64
  attention = 2 * 4 * 8 * 32 * 32 * 4 * RESPONSE * (RESPONSE + 64)  # layers, 2 products, forward
  head = 2 * VOCAB * WIDTH * 32 * 4 * RESPONSE
  forward = 2 * matrices * tokens + attention + head
  assert 3 * forward <= 16 * update["flops"] <= 4.6 * forward


def test_each_chip_of_a_host_may_sample_by_itself(tmp_path):
  """Splash attention in a program that is split over rows already: no axis may be left to XLA."""
  found = plan("prefill", tmp_path, sampling_mesh__tensor=1, data__max_prompt_tokens=128)
  assert not found["problem"] and not found["collectives"]
  assert found["flops"] > 0


COND = """
HloModule test

%double (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8] parameter(0)
  ROOT %dot = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%skip (y: f32[8,8]) -> f32[8,8] {
  ROOT %y = f32[8,8] parameter(0)
}

%open (s: (f32[8,8], s32[])) -> (f32[8,8], s32[]) {
  %s = (f32[8,8], s32[]) parameter(0)
  %a = f32[8,8] get-tuple-element(%s), index=0
  %n = s32[] get-tuple-element(%s), index=1
  %b = f32[8,8]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (f32[8,8], s32[]) tuple(%b, %n)
}

%goes_on (c: (f32[8,8], s32[])) -> pred[] {
  %c = (f32[8,8], s32[]) parameter(0)
  %m = s32[] get-tuple-element(%c), index=1
  %k = s32[] get-tuple-element(%c), index=1
  ROOT %less = pred[] compare(%m, %k), direction=LT
}

ENTRY %main (p: f32[8,8], i: s32[]) -> f32[8,8] {
  %p = f32[8,8] parameter(0)
  %i = s32[] parameter(1)
  %start = (f32[8,8], s32[]) tuple(%p, %i)
  %first = (f32[8,8], s32[]) while(%start), condition=%goes_on, body=%open
  %second = (f32[8,8], s32[]) while(%first), condition=%goes_on, body=%open
  %third = (f32[8,8], s32[]) while(%second), condition=%goes_on, body=%open
  %q = f32[8,8] get-tuple-element(%third), index=0
  ROOT %r = f32[8,8] conditional(%i, %q, %q), branch_computations={%skip, %double}
}
"""


def test_loops_that_end_by_themselves_turn_as_often_as_told():
  """A product of 8 x 8 matrices is 1,024 FLOP: 5 + 7 + 0 turns, and the last branch."""
  program = hlo.Program(COND)
  assert program.costs([5, 7]).flops == (5 + 7 + 1) * 1024
  assert program.costs().flops == 1024


RING = """
HloModule test

%body (s: (f32[8,8], s32[])) -> (f32[8,8], s32[]) {
  %s = (f32[8,8], s32[]) parameter(0)
  %a = f32[8,8] get-tuple-element(%s), index=0
  %n = s32[] get-tuple-element(%s), index=1
  %step = s32[] constant(STEP)
  %b = f32[8,8]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %next = s32[] add(%n, %step)
  ROOT %t = (f32[8,8], s32[]) tuple(%b, %next)
}

%goes_on (c: (f32[8,8], s32[])) -> pred[] {
  %c = (f32[8,8], s32[]) parameter(0)
  %m = s32[] get-tuple-element(%c), index=1
  %last = s32[] constant(8)
  ROOT %less = pred[] compare(%m, %last), direction=LT
}

ENTRY %main (p: f32[8,8], i: s32[]) -> (f32[8,8], s32[]) {
  %p = f32[8,8] parameter(0)
  %i = s32[] parameter(1)
  %start = (f32[8,8], s32[]) tuple(%p, %i)
  ROOT %loop = (f32[8,8], s32[]) while(%start), condition=%goes_on, body=%body
}
"""


@pytest.mark.parametrize("step, turns", [(1, 8), (2, 4), (3, 3)])
def test_a_loop_that_counts_in_steps_turns_less_often(step, turns):
  """XLA unrolls a product over a ring of chips by two: the counter goes up by 2 each turn."""
  assert hlo.Program(RING.replace("STEP", str(step))).costs().flops == turns * 1024


_PIECE = (
  'channel_id=7, replica_groups={{0,1,2,3}}, backend_config={"async_collective_fusion_config":{}}'
)
PIECES = f"""
HloModule test

%begin (p: bf16[2,8]) -> (bf16[2,8], u32[]) {{
  %p = bf16[2,8] parameter(0)
  %g = bf16[8,8] all-gather(%p), {_PIECE}
  ROOT %c = (bf16[8,8], u32[]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}

%beside (p: bf16[2,8]) -> bf16[8,8] {{
  %p = bf16[2,8] parameter(0)
  ROOT %g = bf16[8,8] all-gather(%p), {_PIECE}
}}

%end (p: bf16[2,8]) -> bf16[8,8] {{
  %p = bf16[2,8] parameter(0)
  %g = bf16[8,8] all-gather(%p), {_PIECE}
  ROOT %c = bf16[8,8] custom-call(%g), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main (p: bf16[2,8]) -> bf16[8,8] {{
  %p = bf16[2,8] parameter(0)
  %a = (bf16[8,8], u32[]) fusion(%p), kind=kCustom, calls=%begin
  %b = bf16[8,8] fusion(%p), kind=kOutput, calls=%beside
  ROOT %c = bf16[8,8] fusion(%p), kind=kCustom, calls=%end
}}
"""


def test_a_gather_that_goes_on_inside_other_fusions_is_one_gather():
  (gather,) = hlo.Program(PIECES).costs().collectives
  assert gather.count == 1 and gather.sent == 8 * 8 * 2 * 3 / 4


SPLASH = """
HloModule test

ENTRY %main (m: s8[1,2,2], q: bf16[2,3,1024,128], k: bf16[2,1536,128]) -> bf16[2,3,1024,128] {
  %m = s8[1,2,2] parameter(0)
  %q = bf16[2,3,1024,128] parameter(1)
  %k = bf16[2,1536,128] parameter(2)
  ROOT %splash_mqa_dq.1 = bf16[2,3,1024,128] custom-call(%m, %m, %q, %k, %k)
}
"""


def test_the_work_of_splash_attention_is_counted():
  """1,024 queries after 512 cached slots see 512 + 512 of 1,536 slots on average; three products
  of 2 FLOP per channel, 2 x 3 heads of 128."""
  assert hlo.Program(SPLASH).costs().flops == 3 * 2 * 2 * 3 * 128 * 1024 * (512 + 512)


@pytest.mark.parametrize(
  "groups, chips",
  [
    ("replica_groups={{0,1,2},{3,4,5}}", 3),
    ("replica_groups=[2,4]<=[8]", 4),
    ("replica_groups=mesh['data'=2,'fsdp'=8] {'fsdp'}", 8),
    ("replica_groups=mesh['data'=2,'fsdp'=8] {'fsdp':(2)4}", 4),
    ("replica_groups=mesh['a'=1,'b'=64,'c'=4], device_ids=([4,64]T(1,0)) {'b'}", 64),
  ],
)
def test_groups_of_collectives_are_read_however_they_are_written(groups, chips):
  line = f"  ROOT %g = bf16[64,8] all-gather(%p), {groups}, dimensions={{0}}"
  text = f"ENTRY %main (p: bf16[8,8]) -> bf16[64,8] {{\n  %p = bf16[8,8] parameter(0)\n{line}\n}}\n"
  (gather,) = hlo.Program(text).costs().collectives
  assert gather.chips == chips and gather.sent == 64 * 8 * 2 * (chips - 1) / chips
