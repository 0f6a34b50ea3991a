"""What the server's benchmark asks: prompts by workload, each with a check of its answer."""

import dataclasses
import random
from collections.abc import Callable

from lhrm_jax.data import arithmetic

_CITIES = ("Oslo", "Lima", "Cairo", "Quito", "Delhi", "Seoul", "Turin", "Perth")
_THINGS = ("ladder", "drill", "projector", "keys", "tent", "bicycle", "printer", "kettle")


@dataclasses.dataclass(frozen=True)
class Ask:
  """One request.

  Attributes:
    workload: its name in tables.
    prompt: text of the user's message.
    right: whether an answer is right; `None` for a reply that has its full length instead.
    max_tokens: longest reply.
  """

  workload: str
  prompt: str
  right: Callable[[str], bool] | None
  max_tokens: int


def arithmetic_chains(count: int) -> list[Ask]:
  """The demo's task: chains that the policy knows by heart, and chains that take steps."""
  names = {level: "known by heart" if level <= 2 else "in steps" for level in arithmetic.LEVELS}
  rows = arithmetic.Arithmetic().evaluation(10 * count)
  asks = [
    Ask(names[row.level], row.prompt, lambda text, row=row: text.strip() == row.answer, 40)
    for row in rows if row.level != 3
  ]  # fmt: skip
  return _even(asks, count)


def office(count: int) -> list[Ask]:
  """For a general model: API calls, retrieval from a text, and sums to be thought about.

  Replies have a fixed length, and are not judged: the model knows nothing of the tags yet.
  """
  rng, asks = random.Random(0), []
  for _ in range(count):
    city, day = rng.choice(_CITIES), rng.randint(1, 28)
    rooms = dict(zip(rng.sample(_THINGS, 8), rng.sample(range(100, 400), 8), strict=True))
    text = " ".join(f"The {name} is in room {number}." for name, number in rooms.items())
    a, b, c = (rng.randint(2, 9) for _ in range(3))
    asks += [
      Ask(
        "API call",
        'Reply with one line of JSON like {"name": "get_weather", "city": "Rome", "day": 3}, and '
        f"nothing else. The weather in {city} on day {day}?", None, 24,
      ),
      Ask(
        "retrieval", f"{text}\nIn which room is the {rng.choice(list(rooms))}?", None, 8
      ),
      Ask("reasoning", f"Work out {a} * {b} + {c} step by step.", None, 96),
    ]  # fmt: skip
  return asks


def _even(asks: list[Ask], count: int) -> list[Ask]:
  """As many of each workload, in turns."""
  names = dict.fromkeys(ask.workload for ask in asks)
  kept = [[ask for ask in asks if ask.workload == name][:count] for name in names]
  return [ask for turn in zip(*kept, strict=True) for ask in turn]


WORKLOADS = {"arithmetic": arithmetic_chains, "office": office}
