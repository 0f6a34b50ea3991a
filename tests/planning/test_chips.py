"""One table of chips: for topologies and for the devices that jax names."""

from types import SimpleNamespace

import pytest

from lhrm_jax.planning.ceilings import ceilings
from lhrm_jax.planning.chips import CHIPS, Topology, chip_of
from lhrm_jax.planning.plan import advice


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("TPU v4", "v4"), ("TPU v5 lite", "v5e"), ("TPU v5e", "v5e"), ("TPU v5", "v5p"),
    ("TPU v5p", "v5p"), ("TPU v6 lite", "v6e"), ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA H100 NVL", "h100-nvl"), ("NVIDIA H200", "h200"),
    ("NVIDIA A100-SXM4-40GB", "a100-40gb"), ("NVIDIA A100-SXM4-80GB", "a100"),
  ],
)  # fmt: skip
def test_the_longest_prefix_of_a_device_kind_names_its_chip(kind, name):
  assert chip_of(kind) is CHIPS[name]


def test_a_device_without_a_datasheet_is_no_chip():
  assert chip_of("cpu") is None


def test_ceilings_are_the_datasheets_and_half_of_them_in_tf32():
  h100 = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", platform="gpu")
  v5e = SimpleNamespace(device_kind="TPU v5 lite", platform="tpu")
  assert ceilings("bfloat16", h100).flops == 989.4e12
  assert ceilings("float32", h100).flops == 494.7e12
  assert ceilings("float32", v5e).flops == 197e12
  assert ceilings("bfloat16", h100).bandwidth == 3.35e12


@pytest.mark.parametrize("text", ["v5litepod:4x4", "h100", "v5e:4x"])
def test_a_topology_that_cannot_be_is_refused(text):
  with pytest.raises(ValueError, match=r"as in v5p:4x4x4|not one of v4, v5e"):
    Topology.parse(text)


@pytest.mark.parametrize(("name", "fsdp", "told"), [
  ("v5p:4x4x4", 64, True), ("v5p:4x4x4", 32, False), ("h100:64", 64, False)
])  # fmt: skip
def test_shards_of_parts_of_tiles_are_advised_against(name, fsdp, told):
  plan = SimpleNamespace(program="update", fits=True)
  config = SimpleNamespace(
    policy=SimpleNamespace(hidden_size=3584), mesh=SimpleNamespace(fsdp=fsdp)
  )
  lines = advice(plan, config, Topology.parse(name))
  assert bool(lines) == told
  assert all("mesh.fsdp=64 leaves 56 rows" in line for line in lines)
