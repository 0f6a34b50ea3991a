"""Files of rollouts: what was written comes back; what cannot be trained on says where it is."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest

from lhrm_jax.rewards import rollout_files, scoring
from lhrm_jax.rewards.rollout_files import BadRollouts, RolloutFilesConfig
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.text import CharacterTokenizer

POLICY = "0123456789abcdef"


@pytest.fixture(scope="module")
def scored(tokenizer, rows, rollouts):
  rows = [dataclasses.replace(row, earlier=(("system", "Sei \udcff kurz."),)) for row in rows]
  read = ScoredRollouts.read(tokenizer, rows, rollouts)
  scores = np.arange(36, dtype=np.float32).reshape(6, 2, 3) / 7
  return dataclasses.replace(read, judged=scoring.Judgements(scores, {}, None))


@pytest.fixture
def folder(tmp_path, scored):
  (tmp_path / "rollouts").mkdir()
  for step in (1, 2):
    path = tmp_path / "rollouts" / f"step-{step:08d}.jsonl"
    rollout_files.write_rollouts(path, step, scored, POLICY)
  return tmp_path


def read(folder, tokenizer, policy=POLICY, left_out=None, **options):
  c = RolloutFilesConfig(path=str(folder), **options)
  return list(rollout_files.read_rollouts(c, tokenizer, tokenizer.vocab_size, policy, left_out))


def changed(folder, number, change):
  """Rewrites line `number` of the first file, from 1."""
  path = folder / "rollouts" / "step-00000001.jsonl"
  lines = path.read_text().splitlines()
  lines[number - 1] = change(lines[number - 1])
  path.write_text("\n".join(lines) + "\n")


def setting(**fields):
  return lambda line: json.dumps({**json.loads(line), **fields})


def test_rollouts_come_back_as_they_were_step_by_step(folder, tokenizer, scored):
  batches = read(folder, tokenizer)
  assert len(batches) == 2
  for batch in batches:
    width = batch.rollouts.responses.shape[-1]
    assert width == scored.lengths.max()
    np.testing.assert_array_equal(batch.scores, scored.scores)
    np.testing.assert_array_equal(batch.texts, scored.texts)
    np.testing.assert_array_equal(batch.modes, scored.modes)
    np.testing.assert_array_equal(batch.well_formed, scored.well_formed)
    for name in ("lengths", "finish_reason"):
      np.testing.assert_array_equal(getattr(batch.rollouts, name), getattr(scored.rollouts, name))
    mask = scored.rollouts.mask[..., :width]
    np.testing.assert_array_equal(
      batch.rollouts.responses[mask], scored.rollouts.responses[..., :width][mask]
    )
    for name in ("lengths", "ids"):
      np.testing.assert_array_equal(
        getattr(batch.rollouts.prompts, name), getattr(scored.rollouts.prompts, name)
      )
    assert list(batch.rows) == list(scored.rows), "earlier messages, source and level too"
    assert np.isnan(batch.rollouts.logprobs).all(), "the files do not have them"


def test_responses_on_one_axis_of_modes_come_back_on_it(tmp_path, tokenizer, scored):
  def free(tree):
    return jax.tree.map(lambda x: x.reshape(6, 1, 6, *x.shape[3:]) if x.ndim > 2 else x, tree)

  scores = dataclasses.replace(scored.judged, scores=free(scored.scores))
  rollouts = dataclasses.replace(free(scored.rollouts), prompts=scored.rollouts.prompts)
  fields = {name: free(getattr(scored, name)) for name in ("texts", "modes", "well_formed")}
  one_axis = dataclasses.replace(scored, rollouts=rollouts, judged=scores, **fields)
  rollout_files.write_rollouts(tmp_path / "free.jsonl", 1, one_axis, POLICY)
  (batch,) = read(tmp_path / "free.jsonl", tokenizer)
  assert batch.scores.shape == (6, 1, 6)
  np.testing.assert_array_equal(batch.modes, one_axis.modes)


# 3 responses of 2 modes per query; line 8 is in the second query.
@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda line: line[:-5], "no JSON object"),
    (lambda line: "[" * 100_000, "no JSON object"),
    (lambda line: "", "responses of a query are missing"),
    (setting(score="nan"), "score missing, or no value"),
    (setting(score=10**400), "score missing, or no value"),
    (setting(token_ids=[]), "token_ids missing, or no value"),
    (setting(token_ids=[2.5]), "token_ids missing, or no value"),
    (setting(prompt_token_ids=[-1]), "prompt_token_ids missing, or no value"),
    (setting(mode=["think"], level=True), "level, mode missing, or no value"),
    (setting(earlier=[["system"]]), "earlier missing, or no value"),
    (setting(sample=7), "responses of a query are missing"),
    (setting(group_size=8), "responses of a query are missing"),
    (setting(token_ids=[10**6]), "of another tokenizer: it has token ids beyond"),
    (setting(text="<think>"), "of another tokenizer: the policy's makes another text"),
    (setting(mode="invalid"), "of another tokenizer: the policy's makes another text"),
  ],
)  # fmt: skip
def test_a_line_that_cannot_be_trained_on_is_named_or_left_out_with_its_query(
  folder, tokenizer, change, message
):
  changed(folder, 8, change)
  with pytest.raises(BadRollouts, match=rf"step-00000001\.jsonl:\d+: .*{message}") as error:
    read(folder, tokenizer)
  if "missing" not in message or "value" in message:
    assert "jsonl:8: " in str(error.value)
  left_out = collections.Counter()
  batches = read(folder, tokenizer, left_out=left_out, on_bad_line="skip")
  assert [len(batch.rows) for batch in batches] == [5, 6]
  assert left_out.total() == 1
  assert 1 not in batches[0].rollouts.prompts.ids


def test_lines_of_a_version_that_kept_too_little_say_so(folder, tokenizer):
  def without(line):
    line = json.loads(line)
    del line["prompt_token_ids"]
    return json.dumps(line)

  changed(folder, 1, without)
  with pytest.raises(BadRollouts, match="no prompt_token_ids: an older version"):
    read(folder, tokenizer)


def test_another_tokenizer_and_another_policy_are_refused(folder, tokenizer, scored):
  other = CharacterTokenizer("9876543210+*=?:, ", tokenizer.words)
  with pytest.raises(BadRollouts, match="another tokenizer"):
    read(folder, other)
  with pytest.raises(BadRollouts, match=f"sampled by the policy {POLICY}, and training starts"):
    read(folder, tokenizer, policy="f" * 16)


def test_rollouts_of_any_policy_are_taken_where_that_is_asked_for(folder, tokenizer, scored):
  c = RolloutFilesConfig(path=str(folder), policy="any")
  assert len(list(rollout_files.read_rollouts(c, tokenizer, 10**4, "f" * 16))) == 2
  log = folder / "train.jsonl"  # of a run, whose policy changed
  rollout_files.write_rollouts(log, 1, scored)
  with pytest.raises(BadRollouts, match="sampled by a policy as it trained"):
    read(log, tokenizer)


def test_a_budget_ends_the_reading_at_a_whole_query(folder, tokenizer, scored):
  def sizes(**budget):
    return [len(batch.rows) for batch in read(folder, tokenizer, **budget)]

  assert sizes(max_samples=36) == [6]
  assert sizes(max_samples=53) == [6, 2], "the third query of the second step is beyond it"
  of_query = scored.lengths.sum(axis=(1, 2))
  assert sizes(max_tokens=int(of_query[:4].sum())) == [4]
  assert sizes(max_tokens=int(of_query[:4].sum()) - 1) == [3]
  with pytest.raises(BadRollouts, match="no query is left to train on, within"):
    sizes(max_samples=5)


def test_a_folder_without_rollouts_says_so(tmp_path, tokenizer):
  with pytest.raises(BadRollouts, match="holds no rollouts"):
    read(tmp_path, tokenizer)


def test_a_file_of_damaged_lines_alone_says_what_was_left_out(tmp_path, tokenizer):
  (tmp_path / "x.jsonl").write_text('{"step": 1, "prompt_id": 2}\n\x00\n')
  with pytest.raises(BadRollouts, match=r"no query is left.*\(1 queries: the line has no"):
    read(tmp_path, tokenizer, on_bad_line="skip")
