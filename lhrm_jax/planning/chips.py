"""Accelerators, by their makers' datasheets, and the names of slices of them."""

import dataclasses
import math

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator.

  Attributes:
    name: its name in a topology, e.g. "v5p".
    kinds: prefixes of jax's `device_kind`; over all chips the longest match wins.
    hbm: bytes of memory.
    flops: dense bf16 FLOP/s.
    bandwidth: bytes/s to and from memory.
    link: bytes/s that it sends along one axis of the torus, both ways together; for a GPU, to the
      others of its host.
    axes: axes of the torus; 1 for GPUs.
    host: chips of one host.
  """

  name: str
  kinds: tuple[str, ...]
  hbm: int
  flops: float
  bandwidth: float
  link: float
  axes: int
  host: int


CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", ("TPU v4",), 32 * GIB, 275e12, 1.228e12, 90e9, 3, 4),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 16 * GIB, 197e12, 0.819e12, 90e9, 2, 4),
    Chip("v5p", ("TPU v5",), 95 * GIB, 459e12, 2.765e12, 180e9, 3, 4),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 32 * GIB, 918e12, 1.64e12, 180e9, 2, 4),
    Chip("a100-40gb", ("NVIDIA A100-SXM4-40GB",), 40 * GIB, 312e12, 1.555e12, 300e9, 1, 8),
    Chip("a100", ("NVIDIA A100",), 80 * GIB, 312e12, 2.039e12, 300e9, 1, 8),
    Chip("h100", ("NVIDIA H100",), 80 * GIB, 989.4e12, 3.35e12, 450e9, 1, 8),
    # NVLink joins these two in pairs alone; a host's collectives go over PCIe.
    Chip("h100-pcie", ("NVIDIA H100 PCIe",), 80 * GIB, 756e12, 2.0e12, 64e9, 1, 8),
    Chip("h100-nvl", ("NVIDIA H100 NVL",), 94 * GIB, 835e12, 3.9e12, 64e9, 1, 8),
    Chip("h200", ("NVIDIA H200",), 141 * 10**9, 989.4e12, 4.8e12, 450e9, 1, 8),
  )
}


def chip_of(device_kind: str) -> Chip | None:
  """The chip that jax calls `device_kind`; `None` for one without a datasheet here."""
  matches = [
    (len(kind), chip)
    for chip in CHIPS.values()
    for kind in chip.kinds
    if device_kind.startswith(kind)
  ]
  return max(matches, key=lambda match: match[0])[1] if matches else None


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of chips.

  Attributes:
    chip: kind of all its chips.
    shape: sizes of the torus's axes; the number of GPUs alone.
  """

  chip: Chip
  shape: tuple[int, ...]

  @classmethod
  def parse(cls, text: str) -> "Topology":
    """Parses `v5p:4x4x4`, `v5e:4x4`, `h100:8`.

    Raises:
      ValueError: the text names no chip of `CHIPS`, or no shape.
    """
    name, _, shape = text.partition(":")
    if name not in CHIPS:
      raise ValueError(f"topology {text!r}: {name!r} is not one of {', '.join(CHIPS)}.")
    try:
      sizes = tuple(int(size) for size in shape.split("x"))
    except ValueError as error:
      raise ValueError(
        f"topology {text!r}: give the shape after the colon, as in v5p:4x4x4 or h100:8."
      ) from error
    return cls(CHIPS[name], sizes)

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def of_host(self) -> "Topology":
    """One host of the slice: GPUs in a row, TPU chips in a square of four."""
    if self.chips <= self.chip.host:
      return self
    if self.chip.axes == 1:
      return dataclasses.replace(self, shape=(self.chip.host,))
    return dataclasses.replace(self, shape=(2, 2, 1)[: self.chip.axes])

  def seconds_to_send(self, sent: float, group: int) -> float:
    """Least time of a collective in which each chip sends `sent` bytes.

    Assumes one axis of the torus for a group that is smaller than the slice, all of them for one
    that spans it.
    """
    axes = self.chip.axes if group >= self.chips else 1
    return sent / (self.chip.link * axes)
