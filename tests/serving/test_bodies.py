"""Bodies of requests: what is refused, and at what cost."""

import pydantic
import pytest

from lhrm_jax.serving.bodies import ChatRequest, CompletionRequest
from lhrm_jax.serving.errors import ApiError
from lhrm_jax.serving.prompts import prompt_ids


@pytest.mark.parametrize(
  ("kind", "fields"),
  [
    (ChatRequest, {"messages": [{"role": "user", "content": [{}] * 100_000}]}),
    (ChatRequest, {"messages": [{}] * 9_000}),
    (CompletionRequest, {"prompt": ["1"] * 100_000}),
  ],
)
def test_a_list_of_faults_is_refused_for_the_first(kind, fields):
  """Each fault described would take kilobytes and hold up every other request."""
  with pytest.raises(pydantic.ValidationError) as refused:
    kind.model_validate({"model": "m", **fields})
  assert refused.value.error_count() < 10


def test_an_empty_question_is_refused(tokenizer):
  body = ChatRequest(model="m", messages=[{"role": "user", "content": ""}])
  with pytest.raises(ApiError, match="no token"):
    prompt_ids(body, tokenizer)
