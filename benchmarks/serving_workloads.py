"""What the server's benchmark asks: prompts by workload, each with a check of its answer."""

import dataclasses
import json
import random
import re
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
    right: whether an answer is right.
    max_tokens: longest reply.
  """

  workload: str
  prompt: str
  right: Callable[[str], bool]
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
  """For a general model: API calls, retrieval from a text, and sums to be thought about."""
  rng, asks = random.Random(0), []
  for _ in range(count):
    city, day = rng.choice(_CITIES), rng.randint(1, 28)
    call = {"name": "get_weather", "city": city, "day": day}
    asks.append(
      Ask(
        "API call",
        'Reply with one line of JSON like {"name": "get_weather", "city": "Rome", "day": 3}, and '
        f"nothing else. The weather in {city} on day {day}?",
        lambda text, call=call: _json(text) == call, 32,
      )
    )  # fmt: skip
    rooms = dict(zip(rng.sample(_THINGS, 8), rng.sample(range(100, 400), 8), strict=True))
    thing, room = rng.choice(list(rooms.items()))
    text = " ".join(f"The {name} is in room {number}." for name, number in rooms.items())
    asks.append(
      Ask(
        "retrieval", f"{text}\nIn which room is the {thing}? Reply with its number alone.",
        lambda text, room=room: re.findall(r"\d+", text)[-1:] == [str(room)], 16,
      )
    )  # fmt: skip
    a, b, c = (rng.randint(2, 9) for _ in range(3))
    asks.append(
      Ask(
        "reasoning", f"Work out {a} * {b} + {c} step by step, and end with the result.",
        lambda text, total=a * b + c: re.findall(r"\d+", text)[-1:] == [str(total)], 96,
      )
    )  # fmt: skip
  return asks


def _even(asks: list[Ask], count: int) -> list[Ask]:
  """As many of each workload, in turns."""
  names = dict.fromkeys(ask.workload for ask in asks)
  kept = [[ask for ask in asks if ask.workload == name][:count] for name in names]
  return [ask for turn in zip(*kept, strict=True) for ask in turn]


def _json(text: str) -> object:
  try:
    return json.loads(text)
  except ValueError:
    return None


WORKLOADS = {"arithmetic": arithmetic_chains, "office": office}
