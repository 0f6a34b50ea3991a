"""Replies as JSON, whole and in chunks, as OpenAI's clients read them."""

import itertools
import json
import math
from typing import Any

from lhrm_jax.serving.jobs import Job
from lhrm_jax.serving.reply import CONTENT, Piece, TokenLogprob
from lhrm_jax.serving.sequences import Decided, Event, Finished

_LEAST = -9999.0  # JSON has no infinity; OpenAI's value for a token that is as good as impossible


def chat(job: Job) -> dict[str, Any]:
  """A whole chat completion."""
  choices = []
  for i, choice in enumerate(job.choices):
    reasoning = choice.texts["reasoning"] if choice.mode() == "think" else None
    message = {"role": "assistant", "content": choice.texts["content"],
               "reasoning": reasoning, "reasoning_content": reasoning}  # fmt: skip
    choices.append({
      "index": i, "message": message, "finish_reason": choice.finish_reason,
      "logprobs": _chat_logprobs(job, i, choice.tokens), "routing": job.routing(i),
    })  # fmt: skip
  return _whole(job, "chat.completion", choices)


def completion(job: Job) -> dict[str, Any]:
  """A whole completion: the text with its tags."""
  choices = [
    {
      "index": i, "text": choice.texts["reasoning"] + choice.texts["content"],
      "finish_reason": choice.finish_reason,
      "logprobs": _logprobs(job, i, choice.tokens), "routing": job.routing(i),
    }
    for i, choice in enumerate(job.choices)
  ]  # fmt: skip
  return _whole(job, "text_completion", choices)


def chat_chunk(job: Job, index: int, event: Event) -> dict[str, Any] | None:
  """The chunk of a chat stream that tells an event; `None` where there is nothing to tell."""
  choice: dict[str, Any] = {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}
  routing = {}
  if isinstance(event, Decided):
    choice["delta"] = {"role": "assistant", "content": ""}
    choice["routing"] = job.routing(index)
    routing = {"routing": choice["routing"]}
  elif isinstance(event, Finished):
    choice["finish_reason"] = event.reason
  elif isinstance(event, Piece):
    tokens = [event.token] if event.token else []
    choice["logprobs"] = _chat_logprobs(job, index, tokens) if tokens else None
    if event.text and event.part == CONTENT:
      choice["delta"] = {"content": event.text}
    elif event.text:
      choice["delta"] = {"reasoning": event.text, "reasoning_content": event.text}
    elif choice["logprobs"] is None:
      return None
  return _chunk(job, "chat.completion.chunk", [choice]) | routing


def completion_chunk(job: Job, index: int, event: Event) -> dict[str, Any] | None:
  """Like `chat_chunk`, of a stream of plain text."""
  choice: dict[str, Any] = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
  routing = {}
  if isinstance(event, Decided):
    choice["routing"] = job.routing(index)
    routing = {"routing": choice["routing"]}
  elif isinstance(event, Finished):
    choice["finish_reason"] = event.reason
  elif isinstance(event, Piece):
    choice["text"] = event.text
    tokens = [event.token] if event.token else []
    if tokens:
      of_choice = job.choices[index]
      choice["logprobs"] = _logprobs(job, index, tokens, of_choice.offset)
      if found := choice["logprobs"]:
        of_choice.offset += sum(map(len, found["tokens"]))
    if not event.text and choice["logprobs"] is None:
      return None
  return _chunk(job, "text_completion", [choice]) | routing


def usage_chunk(job: Job, kind: str) -> dict[str, Any]:
  """The last chunk of a stream whose request asked for its usage."""
  return _chunk(job, kind, []) | {"usage": job.usage()}


def as_event(value: Any) -> bytes:
  """One event of a stream."""
  return b"data: " + json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n\n"


def _whole(job: Job, kind: str, choices: list) -> dict[str, Any]:
  found = _chunk(job, kind, choices)
  return found | {"usage": job.usage(), "routing": job.routing(0)}


def _chunk(job: Job, kind: str, choices: list) -> dict[str, Any]:
  return {
    "id": job.id, "object": kind, "created": job.created, "model": job.model, "choices": choices
  }  # fmt: skip


def _finite(logprob: float) -> float:
  return logprob if math.isfinite(logprob) else _LEAST


def _chat_logprobs(job: Job, index: int, tokens: list[TokenLogprob]) -> dict | None:
  if not job.asked.logprobs:
    return None
  tokenizer = job.tokenizer(index)

  def told(token_id: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([token_id])
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}

  return {
    "content": [
      told(t.token_id, t.logprob) | {"top_logprobs": [told(*top) for top in t.tops]} for t in tokens
    ]
  }


def _logprobs(
  job: Job, index: int, tokens: list[TokenLogprob], start: int = 0
) -> dict | None:  # fmt: skip
  """Log-probabilities of tokens whose text begins at place `start` of the reply's."""
  if not job.asked.logprobs:
    return None
  tokenizer = job.tokenizer(index)
  texts = [tokenizer.decode([t.token_id]) for t in tokens]
  return {
    "tokens": texts,
    "token_logprobs": [_finite(t.logprob) for t in tokens],
    "top_logprobs": [{tokenizer.decode([i]): _finite(x) for i, x in t.tops} for t in tokens],
    "text_offset": [start + at for at in itertools.accumulate(map(len, texts[:-1]), initial=0)],
  }
