"""A small mixture with everything in it that a preparation must remove or keep."""

import random

from lhrm_jax.config import replaced
from lhrm_jax.runs.config import Config
from tests.data.test_sources import write_jsonl

TOKENIZER = "tests/golden/qwen3_tied"
PLACES = (
  "harbour", "garden", "village", "mountain", "library", "kitchen", "theatre", "station", "museum",
  "bakery", "island", "forest", "desert", "bridge", "castle", "market", "prairie", "lagoon",
)  # fmt: skip
THINGS = (
  "lantern", "teapot", "violin", "compass", "basket", "mirror", "blanket", "anchor", "candle",
  "feather", "ladder", "pillow", "saddle", "helmet", "kettle", "marble", "needle", "puzzle",
)  # fmt: skip
ASKED = (
  "A farmer keeps some sheep and some hens behind the old barn, which have 74 legs and 26 heads "
  "between them; how many sheep are there behind the barn?"
)


def story(rng, words=8):
  return " ".join(rng.choice(PLACES + THINGS) for _ in range(words))


def chat(question, reply="Certainly."):
  return {"toxic": False, "conversation": [{"role": "user", "content": question},
                                           {"role": "assistant", "content": reply}]}  # fmt: skip


def solved(question, answer, stated=None):
  stated = answer if stated is None else stated
  return {"problem": question, "answer": str(answer),
          "generations": [f"<think>Let me count.</think>It is \\boxed{{{stated}}}."]}  # fmt: skip


def question(rng, number):
  return (
    f"There are {number} boxes with a {rng.choice(THINGS)} in the {story(rng, 6)} and twice as "
    f"many in the {story(rng, 6)}; compute how many boxes there are in total and prove it"
  )


def write(folder, chats=60, problems=60, seed=0):
  """Writes the sources and returns the questions that are planted, by what they are."""
  rng = random.Random(seed)
  chat_rows = [chat(f"Please tell me a story about the {story(rng, 12)}") for _ in range(chats)]
  good = [question(rng, i) for i in range(problems)]
  exact = good[0].upper() + "!"
  near = good[1].replace("compute how many", "compute quickly how many")
  other = good[2].replace("There are 2 ", "There are 977 ")
  contaminated = "  Hello. " + ASKED.replace(" ", "  ").lower().replace(",", " - ")
  long = question(rng, 5001) + " please" * 300
  math = [solved(q, 3 * i) for i, q in enumerate(good)]
  math += [solved(exact, 0), solved(near, 3), solved(other, 3 * 977), solved(contaminated, 11),
           solved(long, 15003), solved(question(rng, 6001), 1, stated=2),
           {"problem": "no generations"}]  # fmt: skip
  write_jsonl(folder / "chat.jsonl", [*chat_rows, chat(f"Hi. {ASKED}"), {"toxic": True}])
  write_jsonl(folder / "math.jsonl", math)
  queries = [{"prompt": f"What is {i} plus {i} in the {story(rng, 5)}?", "answer": 2 * i}
             for i in range(20)]  # fmt: skip
  write_jsonl(folder / "queries.jsonl", [*queries, {"prompt": ASKED, "answer": 11}])
  write_jsonl(folder / "evaluated.jsonl", [{"problem": ASKED, "answer": "11"}])
  return {"kept": good, "exact": exact, "near": near, "other": other}


def config_of(folder, **changes):
  return replaced(
    Config(),
    {
      "task": "rows",
      "data.demonstrations": "wildchat,openr1_math",
      "data.prompts": "queries",
      "data.evaluation": "math500",
      "data.sources": {
        "wildchat": {"path": str(folder / "chat.jsonl"), "format": "wildchat"},
        "openr1_math": {"path": str(folder / "math.jsonl"), "format": "openr1_math"},
        "queries": {"path": str(folder / "queries.jsonl")},
        "math500": {"path": str(folder / "evaluated.jsonl"), "format": "math500"},
      },
      "data.max_response_tokens": 200,
      "data.max_prompt_tokens": 900,
      "prepare.tokenizer": TOKENIZER,
      "prepare.suites": f"math500={folder}/evaluated.jsonl",
      "prepare.part_rows": 16,
      "prepare.shard_rows": 20,
      "prepare.tasks": 3,
      "prepare.workers": 1,
      **changes,
    },
  )
