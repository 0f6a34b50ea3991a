"""What accelerators offer, from their makers' datasheets, and how to name a slice of them."""

import dataclasses
import math

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator.

  Attributes:
    name: as topologies name it, e.g. "v5p".
    hbm: bytes of memory.
    flops: dense bf16 FLOP/s.
    bandwidth: bytes/s to and from memory.
    link: bytes/s that it sends along one axis of the torus, both ways together; of a GPU, through
      NVLink.
    axes: of the torus.
    host: chips of one host.
  """

  name: str
  hbm: int
  flops: float
  bandwidth: float
  link: float
  axes: int
  host: int


CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", 32 * GIB, 275e12, 1.228e12, 90e9, 3, 4),
    Chip("v5e", 16 * GIB, 197e12, 0.819e12, 90e9, 2, 4),
    Chip("v5p", 95 * GIB, 459e12, 2.765e12, 180e9, 3, 4),
    Chip("v6e", 32 * GIB, 918e12, 1.64e12, 180e9, 2, 4),
    Chip("h100", 80 * GIB, 989e12, 3.35e12, 450e9, 1, 8),
  )
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of chips.

  Attributes:
    chip: what it is made of.
    shape: of the torus.
  """

  chip: Chip
  shape: tuple[int, ...]

  @classmethod
  def parse(cls, text: str) -> "Topology":
    """`v5p:4x4x4`, `v5e:4x4`, `h100:8`.

    Raises:
      ValueError: the text names no chips that are known, or no shape.
    """
    name, _, shape = text.partition(":")
    if name not in CHIPS:
      raise ValueError(f"topology {text!r}: {name!r} is none of {', '.join(CHIPS)}.")
    try:
      sizes = tuple(int(size) for size in shape.split("x"))
    except ValueError as error:
      raise ValueError(
        f"topology {text!r}: after the colon stands the shape, as in v5p:4x4x4 or h100:8."
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
