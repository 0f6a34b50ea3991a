"""Prints plans for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lhrm_jax.planning.chips import GIB, Topology
from lhrm_jax.planning.plan import Plan

_MOST_COLLECTIVES = 8


def show(plan: Plan, advice: Sequence[str], topology: Topology) -> None:
  """Prints a plan, with what to change where it does not fit."""
  console = Console(highlight=False, width=132)
  verdict = "fits" if plan.fits else "[bold]does not fit[/bold]"
  console.print(
    f"\n[bold]{plan.program}[/bold]: {plan.what}; {plan.chips} chips, compiled in "
    f"{plan.compile_seconds:.0f} s"
  )
  console.print(
    f"  memory per chip: {plan.peak / GIB:.2f} of {plan.hbm / GIB:.0f} GiB, {verdict}; parameters "
    f"{plan.parameters / GIB:.2f}, optimiser {plan.optimizer / GIB:.2f}, batch "
    f"{plan.batch / GIB:.3f}, temporaries {plan.temporaries / GIB:.2f}"
    + (f" (KV cache {plan.kv_cache / GIB:.2f})" if plan.kv_cache else "")
  )
  for line in advice:
    console.print(f"    to change: {line}")
  if plan.problem:
    console.print(f"    the compiler: {plan.problem}")
    return
  low, high = plan.seconds
  console.print(
    f"  work per chip: {plan.flops / 1e12:,.1f} TFLOP, {plan.moved / 1e9:,.1f} GB to and from "
    f"memory, {sum(c.sent for c in plan.collectives) / 1e9:,.2f} GB sent to other chips"
  )
  console.print(
    f"  at the datasheet's rates: compute {plan.compute_seconds:.3g} s, memory "
    f"{plan.memory_seconds:.3g} s, collectives {plan.collective_seconds:.3g} s: "
    f"[bold]{low:.3g} s[/bold] if they overlap, {high:.3g} s if not"
  )
  table = Table(box=None, pad_edge=False, padding=(0, 2))
  for name in ("collective", "result", "MB each", "chips", "times", "GB sent", "seconds"):
    table.add_column(name, justify="left" if name in ("collective", "result") else "right")
  for c in plan.collectives[:_MOST_COLLECTIVES]:
    seconds = topology.seconds_to_send(c.sent, c.chips)
    table.add_row(
      f"  {c.kind}", c.shape, f"{c.bytes / 1e6:.2f}", str(c.chips), str(c.count),
      f"{c.sent / 1e9:.3f}", f"{seconds:.2g}",
    )  # fmt: skip
  console.print(table)
