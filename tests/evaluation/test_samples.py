"""The files of an evaluation's prompts and samples."""

import dataclasses
import json

import pytest

from lhrm_jax.evaluation import samples


def sample_of(**changes) -> samples.Sample:
  whole = samples.Sample(
    prompt_id=3, pass_name="free", sample=0, seed=0, mode="think", score=1.0, tokens=4,
    finish="stop", well_formed=True, leak=False, text="<think>1\u2028\ud83d</think>7",
    ids=[5, 6, 7, 1], seconds=0.25,
  )  # fmt: skip
  return dataclasses.replace(whole, **changes)


def test_samples_and_prompts_come_back_as_written(tmp_path):
  prompt = samples.PromptRecord(3, "demo", "3+4", "7", 1, "sums", "mine", 0.5, 0.3, 0.2, "think", 9)
  samples.write_prompts(tmp_path, [prompt])
  assert samples.read_prompts(tmp_path) == [prompt]
  kept = [sample_of(), sample_of(sample=1, dial={"tag_bias": 1.0})]
  log = samples.open_log(tmp_path, resume=False)
  log.append(kept)
  log.append(kept)  # nothing is written twice
  assert list(samples.read_samples(tmp_path)) == kept
  first = json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])
  assert first["pass"] == "free" and first["dial"] == {} and first["ids"] == [5, 6, 7, 1]


def test_a_resumed_log_drops_a_partial_line_and_knows_the_rest(tmp_path):
  samples.open_log(tmp_path, resume=False).append([sample_of(), sample_of(sample=1)])
  path = tmp_path / "samples.jsonl"
  path.write_bytes(path.read_bytes()[:-9])
  assert len(list(samples.read_samples(tmp_path))) == 1
  log = samples.open_log(tmp_path, resume=True)
  assert list(log.known) == [sample_of().key]
  log.append([sample_of(), sample_of(sample=1)])
  assert list(samples.read_samples(tmp_path)) == [sample_of(), sample_of(sample=1)]
  assert not samples.open_log(tmp_path, resume=False).known


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt_id": 1}'])
def test_a_damaged_line_is_named(tmp_path, line):
  samples.open_log(tmp_path, resume=False).append([sample_of()])
  path = tmp_path / "samples.jsonl"
  path.write_text(path.read_text() + line + "\n")
  with pytest.raises(ValueError, match=r"samples.jsonl:2 is damaged"):
    samples.open_log(tmp_path, resume=True)
