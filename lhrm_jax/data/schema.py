"""The two kinds of row that training reads, whatever file or generator they come from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PromptRow:
  """One query for reinforcement learning or evaluation.

  Attributes:
    prompt: what the user asks, last.
    answer: the right answer, as the reward function takes it; empty where a reward model scores.
    level: difficulty, for reports; 0 where unknown.
    source: where the row comes from, for reports and `reward_by_source`.
    earlier: (role, content) of the messages before the prompt, as an `HFTRow`'s.
  """

  prompt: str
  answer: str
  level: int = 0
  source: str = ""
  earlier: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class HFTRow:
  """One demonstration for Hybrid Fine-Tuning.

  Attributes:
    prompt: what the user asks, last.
    response: the whole response, tags included.
    mode: `tags.THINK` or `tags.NO_THINK`.
    tag_weight: weight of the opening tag in the loss. Shares of modes in a batch are chosen for
      speed of learning; this weight sets the prior over modes that the policy learns.
    earlier: (role, content) of the messages before the prompt, e.g. a system message. Only chat
      tokenizers take any.
    answer: the right answer, where it is known; not trained on.
  """

  prompt: str
  response: str
  mode: int
  tag_weight: float = 1.0
  earlier: tuple[tuple[str, str], ...] = ()
  answer: str = ""
