"""Files of scored rollouts: one JSON object per line and response, written and read back.

The same format serves the log of a training run and rollouts that are sampled once, for methods
that train on them offline. What is read may have been damaged or be of another tokenizer or policy.
"""

import collections
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from lhrm_jax.config import MOST_STEPS, PATH, knob, one_of, whole
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.rewards.scoring import Judgements
from lhrm_jax.sampling import FINISH_REASONS, Prompts, Rollouts
from lhrm_jax.text import Tokenizer, tags
from lhrm_jax.text.characters import printable

INVALID = "invalid"  # the mode of a response that opens with neither tag
_MOST = 2**53


@dataclasses.dataclass(frozen=True)
class RolloutFilesConfig:
  """Knobs of rollouts in files, the section `rollouts` of a config."""

  steps: int = knob(
    0,
    whole(0),
    "HGPO steps whose prompts `experiments.rollouts` samples, as HGPO itself would at its start; 0 "
    "takes `hgpo.steps`.",
  )
  path: str = knob(
    "",
    PATH,
    "What DPO, RFT and routers train on: a folder of `experiments.rollouts`, or one file of "
    "rollouts.",
  )
  max_samples: int = knob(
    0, whole(0, _MOST), "Most responses that they read, whole queries of them; 0 reads all."
  )
  max_tokens: int = knob(
    0, whole(0, _MOST), "Most response tokens that they read, likewise; 0 reads all."
  )
  policy: str = knob(
    "same",
    one_of("same", "any"),
    '"same" refuses rollouts of another policy than training starts from.',
  )
  on_bad_line: str = knob(
    "raise", one_of("raise", "skip"), '"skip" leaves out queries with damaged lines, and says so.'
  )


class BadRollouts(ValueError):
  """Rollouts that cannot be trained on; says in which file, which line, and why."""


# ---- Writing


def write_rollouts(path: pathlib.Path, step: int, scored: ScoredRollouts, policy: str = "") -> None:
  """Appends a line for each of the `B * M * G` responses.

  Args:
    path: the file; one per run or step, as the caller likes.
    step: of the update these rollouts are for.
    scored: the rollouts, with their advantages where they have any.
    policy: fingerprint of the policy that sampled, where it is the same for a whole run.
  """
  lines = [json.dumps(line, ensure_ascii=False) for line in _lines(step, scored, policy)]
  # A lone surrogate, which UTF-8 lacks, becomes the escape that JSON has for it.
  with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
    file.write("\n".join(lines) + "\n")


def _lines(step: int, scored: ScoredRollouts, policy: str) -> Iterator[dict[str, Any]]:
  rollouts, found = scored.rollouts, scored.advantages
  for at in np.ndindex(*scored.scores.shape):
    row, mode = scored.rows[at[0]], scored.modes[at]
    line = {
      "step": step,
      "prompt_id": int(rollouts.prompts.ids[at[0]]),
      "prompt": row.prompt,
      "answer": row.answer,
      "level": row.level,
      "source": row.source,
      "mode": tags.MODES[mode] if mode != tags.INVALID_MODE else INVALID,
      "sample": at[2],
      "group_size": scored.scores[0].size,
      "text": scored.texts[at],
      "prompt_token_ids": rollouts.prompts.tokens[at[0]][
        : rollouts.prompts.lengths[at[0]]
      ].tolist(),
      "token_ids": rollouts.responses[at][: rollouts.lengths[at]].tolist(),
      "finish_reason": FINISH_REASONS[rollouts.finish_reason[at]],
      "score": _number(scored.scores[at]),
      "policy_version": int(rollouts.policy_version),
    }
    if row.earlier:
      line["earlier"] = row.earlier
    if policy:
      line["policy"] = policy
    if found is not None:
      line |= {
        "advantage_tag": _number(found.tag[at]),
        "advantage_body": _number(found.body[at]),
      }
      if found.r_inter is not None:
        line |= {"r_inter": _number(found.r_inter[at]), "r_intra": _number(found.r_intra[at])}
    yield line


def _number(x: np.ndarray) -> float | str:
  """JSON has no name for what is not finite."""
  return float(x) if np.isfinite(x) else str(x)


# ---- Reading


def files_of(path: pathlib.Path | str) -> list[pathlib.Path]:
  """The files of rollouts that a path names: itself, or those of a run's folder, in order.

  Raises:
    BadRollouts: there are none.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_file():
    return [path]
  folder = path / "rollouts" if (path / "rollouts").is_dir() else path
  if found := sorted(folder.glob("*.jsonl")):
    return found
  raise BadRollouts(f"{printable(str(path))} holds no rollouts: no such file, no *.jsonl in it.")


def read_rollouts(
  c: RolloutFilesConfig, tokenizer: Tokenizer, vocab_size: int, policy: str,
  left_out: collections.Counter | None = None,
) -> Iterator[ScoredRollouts]:  # fmt: skip
  """Reads the rollouts of `c.path` back, step by step, up to the budget that `c` allows.

  Rewards are not asked again. Log-probabilities are not in the files and come back as NaN.

  Args:
    c: where they are, how many to read, and what to do with damaged lines.
    tokenizer: the policy's, which must make the same texts of the token ids.
    vocab_size: the policy's, which no token id reaches.
    policy: fingerprint of the policy that must have sampled them, unless `c.policy` is "any".
    left_out: given the number of queries left out, by reason.

  Yields:
    `[B, M, G, T]` of each step: `T` is its longest response.

  Raises:
    BadRollouts: there are none; or a line is damaged, of another tokenizer or of another policy.
  """
  left_out = collections.Counter() if left_out is None else left_out
  expected = policy if c.policy == "same" else ""
  samples = tokens = 0
  queries = _queries(c, tokenizer, vocab_size, expected, left_out)

  def affordable() -> Iterator[list[dict[str, Any]]]:
    nonlocal samples, tokens
    for query in queries:
      samples += len(query)
      tokens += sum(len(line["token_ids"]) for line in query)
      if (c.max_samples and samples > c.max_samples) or (c.max_tokens and tokens > c.max_tokens):
        return
      yield query

  found = False
  for (step, paired, _), same in itertools.groupby(affordable(), _shape):
    found = True
    yield _batch(step, paired, list(same), tokenizer)
  if not found:
    why = "; ".join(f"{count:,} queries: {reason}" for reason, count in left_out.items())
    raise BadRollouts(
      f"rollouts.path={c.path!r}: no query is left to train on"
      + (f" ({why})." if why else ", within rollouts.max_samples and rollouts.max_tokens.")
    )


def _shape(query: Sequence[dict[str, Any]]) -> tuple[int, bool, int]:
  """Step, whether modes are paired, and number of responses: of one batch, all are the same."""
  return query[0]["step"], len({line["sample"] for line in query}) < len(query), len(query)


def _queries(
  c: RolloutFilesConfig, tokenizer: Tokenizer, vocab_size: int, policy: str,
  left_out: collections.Counter,
) -> Iterator[list[dict[str, Any]]]:  # fmt: skip
  """The lines of each whole query, in order."""
  for path in files_of(c.path):
    with path.open("rb") as file:
      for _, numbered in itertools.groupby(_numbered(file), lambda x: x[0]):
        _, numbers, lines = zip(*numbered, strict=True)
        problems = [_problem(line, tokenizer, vocab_size) for line in lines]
        at = next((i for i, problem in enumerate(problems) if problem), -1)
        if reason := problems[at] or _incomplete(lines):
          if c.on_bad_line == "raise":
            raise BadRollouts(
              f"{printable(str(path))}:{numbers[at]}: {reason}. Sample them again, or leave such "
              "queries out: rollouts.on_bad_line='skip'."
            )
          left_out[reason] += 1
        else:
          _check_policy(f"{path}:{numbers[0]}", lines[0], policy)
          yield list(lines)


def _numbered(file: IO[bytes]) -> Iterator[tuple[Any, int, Any]]:
  """Query, line number and content of each line; a damaged one counts to the query before it."""
  key = None
  for number, line in enumerate(file, 1):
    if line.strip():
      parsed = _parsed(line)
      key = _key(parsed) or key
      yield key, number, parsed


def _parsed(line: bytes) -> Any:
  try:
    return json.loads(line)
  except (RecursionError, ValueError):
    return None


def _key(line: Any) -> tuple[Any, Any] | None:
  if not isinstance(line, dict):
    return None
  step, prompt = line.get("step"), line.get("prompt_id")
  return (step, prompt) if type(step) is int and type(prompt) is int else None


def _problem(line: Any, tokenizer: Tokenizer, vocab_size: int) -> str:
  """What is wrong with a line by itself, or ""."""
  if _key(line) is None:
    return "the line is damaged: no JSON object with the step and prompt_id of a rollout"
  for name in ("prompt_token_ids", "group_size"):
    if name not in line:
      return f"the line has no {name}: an older version, which did not keep it, wrote it"
  wrong = [name for name, holds in _FIELDS.items() if not holds(line.get(name))]
  if wrong:
    return f"the line is damaged: {', '.join(wrong)} missing, or no value that a rollout has"
  ids = line["token_ids"]
  if max(max(ids), max(line["prompt_token_ids"])) >= vocab_size:
    return "of another tokenizer: it has token ids beyond the policy's vocabulary"
  mode = tokenizer.tag_ids.mode_of(ids[0])
  named = INVALID if mode == tags.INVALID_MODE else tags.MODES[mode]
  if named != line["mode"] or tokenizer.decode(ids) != line["text"]:
    return "of another tokenizer: the policy's makes another text of the token ids"
  return ""


def _whole(least: int = 0, most: int = MOST_STEPS):
  return lambda x: type(x) is int and least <= x <= most


def _ids(x: Any) -> bool:
  return isinstance(x, list) and bool(x) and all(map(_whole(), x))


def _conversation(x: Any) -> bool:
  return x is None or (
    isinstance(x, list)
    and all(isinstance(m, list) and len(m) == 2 and all(isinstance(t, str) for t in m) for m in x)
  )


_FIELDS = {
  "step": _whole(),
  "prompt_id": _whole(),
  "prompt": lambda x: isinstance(x, str),
  "answer": lambda x: isinstance(x, str),
  "level": _whole(-MOST_STEPS),
  "source": lambda x: isinstance(x, str),
  "earlier": _conversation,
  "mode": lambda x: isinstance(x, str) and x in (*tags.MODES, INVALID),
  "sample": _whole(),
  "group_size": _whole(1),
  "text": lambda x: isinstance(x, str),
  "prompt_token_ids": _ids,
  "token_ids": _ids,
  "finish_reason": lambda x: isinstance(x, str) and x in FINISH_REASONS,
  "score": lambda x: type(x) in (int, float) and abs(x) < 1e30,
  "policy_version": _whole(),
}


def _incomplete(lines: Sequence[dict[str, Any]]) -> str:
  """What is wrong with the lines of one query together, or ""."""
  size = len(lines)
  samples = sorted(line["sample"] for line in lines)
  pairs = sorted((line["mode"], line["sample"]) for line in lines)
  paired = [(mode, g) for mode in sorted(tags.MODES) for g in range(size // 2)]
  complete = all(line["group_size"] == size for line in lines)
  if complete and (samples == list(range(size)) or pairs == paired):
    return ""
  return "responses of a query are missing"


def _check_policy(where: str, line: dict[str, Any], policy: str) -> None:
  """Raises:
  BadRollouts: another policy than `policy` sampled the line; "" takes any.
  """
  sampled_by = line.get("policy")
  if not policy or sampled_by == policy:
    return
  of = printable(f"the policy {sampled_by}", 60) if sampled_by else "a policy as it trained"
  raise BadRollouts(
    f"{printable(where)}: sampled by {of}, and training starts from {policy}. Sample from what "
    "init_from names, with the same keys of policy and seed (python -m experiments.rollouts), or "
    "take rollouts of any policy: rollouts.policy='any'."
  )


def _batch(
  step: int, paired: bool, queries: Sequence[Sequence[dict[str, Any]]], tokenizer: Tokenizer
) -> ScoredRollouts:
  """The queries of one step; a paired one's responses in the order of modes and samples."""
  order = [
    sorted(query, key=lambda x: (paired and tags.MODES.index(x["mode"]), x["sample"]))
    for query in queries
  ]
  shape = (len(order), 2, len(order[0]) // 2) if paired else (len(order), 1, len(order[0]))
  lines = [line for query in order for line in query]
  prompts, prompt_lengths = _padded([query[0]["prompt_token_ids"] for query in order], tokenizer)
  responses, lengths = _padded([line["token_ids"] for line in lines], tokenizer)
  finish = np.array([FINISH_REASONS.index(line["finish_reason"]) for line in lines], np.int32)
  rollouts = Rollouts(
    prompts=Prompts(
      prompts, prompt_lengths, np.array([query[0]["prompt_id"] for query in order], np.int32)
    ),
    responses=responses.reshape(*shape, -1),
    lengths=lengths.reshape(shape),
    logprobs=np.full((*shape, responses.shape[1]), np.nan, np.float32),
    finish_reason=finish.reshape(shape),
    policy_version=np.int32(lines[0]["policy_version"]),
  )
  scores = np.array([line["score"] for line in lines], np.float32).reshape(shape)
  read = ScoredRollouts.read(tokenizer, [_row(query[0]) for query in order], rollouts)
  return dataclasses.replace(read, judged=Judgements(scores, {}, None))


def _padded(
  sequences: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
  lengths = np.array([len(ids) for ids in sequences], np.int32)
  padded = np.full((len(sequences), lengths.max()), tokenizer.pad_id, np.int32)
  for i, ids in enumerate(sequences):
    padded[i, : len(ids)] = ids
  return padded, lengths


def _row(line: dict[str, Any]) -> PromptRow:
  earlier = tuple((role, content) for role, content in line.get("earlier") or ())
  return PromptRow(line["prompt"], line["answer"], line["level"], line["source"], earlier)
