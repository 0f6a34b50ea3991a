"""Costs read from HLO text, worked out by hand."""

import pytest

from lhrm_jax.planning.costs import count

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

%continues (c: (f32[8,8], s32[])) -> pred[] {
  %c = (f32[8,8], s32[]) parameter(0)
  %m = s32[] get-tuple-element(%c), index=1
  %k = s32[] get-tuple-element(%c), index=1
  ROOT %less = pred[] compare(%m, %k), direction=LT
}

ENTRY %main (p: f32[8,8], i: s32[]) -> f32[8,8] {
  %p = f32[8,8] parameter(0)
  %i = s32[] parameter(1)
  %start = (f32[8,8], s32[]) tuple(%p, %i)
  %first = (f32[8,8], s32[]) while(%start), condition=%continues, body=%open
  %second = (f32[8,8], s32[]) while(%first), condition=%continues, body=%open
  %third = (f32[8,8], s32[]) while(%second), condition=%continues, body=%open
  %q = f32[8,8] get-tuple-element(%third), index=0
  ROOT %r = f32[8,8] conditional(%i, %q, %q), branch_computations={%skip, %double}
}
"""


def test_loops_that_stop_on_data_run_as_often_as_told():
  """A product of 8 x 8 matrices is 1,024 FLOP: 5 + 7 + 0 iterations, and the last branch."""
  assert count(_in_scopes(COND, first="a/while", second="b/while"), {"a": 5, "b": 7}).flops == (
    (5 + 7 + 1) * 1024
  )
  assert count(COND).flops == 1024


def test_loops_are_told_apart_by_the_scopes_they_were_traced_in():
  """The innermost scope that is named counts: 3 of the rows, 2 of the head within them, 0."""
  text = _in_scopes(
    COND, first="rows/while", second="rows/while/body/transpose(jvp(head))/while",
    third="rows/while/body/while",
  )  # fmt: skip
  assert count(text, {"rows": 3, "head": 2}).flops == (3 + 2 + 0 + 1) * 1024


def _in_scopes(text: str, **paths: str) -> str:
  """A program whose loops were traced at these paths."""
  for name, path in paths.items():
    start = text.index(f"%{name} = (f32[8,8], s32[]) while")
    end = text.index("\n", start)
    text = f'{text[:end]}, metadata={{op_name="jit(step)/{path}"}}{text[end:]}'
  return text


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

%continues (c: (f32[8,8], s32[])) -> pred[] {
  %c = (f32[8,8], s32[]) parameter(0)
  %m = s32[] get-tuple-element(%c), index=1
  %last = s32[] constant(8)
  ROOT %less = pred[] compare(%m, %last), direction=LT
}

ENTRY %main (p: f32[8,8], i: s32[]) -> (f32[8,8], s32[]) {
  %p = f32[8,8] parameter(0)
  %i = s32[] parameter(1)
  %start = (f32[8,8], s32[]) tuple(%p, %i)
  ROOT %loop = (f32[8,8], s32[]) while(%start), condition=%continues, body=%body
}
"""


@pytest.mark.parametrize("step, trips", [(1, 8), (2, 4), (3, 3)])
def test_a_loop_that_counts_in_steps_runs_less_often(step, trips):
  """XLA unrolls a product over a ring of chips by two: the counter goes up by 2 each time."""
  assert count(RING.replace("STEP", str(step))).flops == trips * 1024


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


def test_a_gather_that_continues_inside_other_fusions_is_one_gather():
  (gather,) = count(PIECES).collectives
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
  assert count(SPLASH).flops == 3 * 2 * 2 * 3 * 128 * 1024 * (512 + 512)


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
  (gather,) = count(text).collectives
  assert gather.chips == chips and gather.sent == 64 * 8 * 2 * (chips - 1) / chips
