"""Low-rank adapters: what they change, what they leave alone, and how they are exported."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lhrm_jax import parallel, policy
from lhrm_jax.policy import PolicyConfig, lora

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TAGS = (60, 61)  # equal rows in the tables, as new tags have
BASE = PolicyConfig(
  vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2
)
TOKENS = jnp.array([[60, 5, 61, 3, 9, 60], [7, 60, 60, 1, 2, 4]])
logits = jax.jit(policy.logits, static_argnums=0)


def with_adapters(config, params, tokens=TAGS, **fields):
  config = dataclasses.replace(config, **{"lora_rank": 4, **fields}, lora_tokens=tokens)
  shardings = parallel.param_shardings(parallel.make_mesh(), policy.logical_axes(config))
  return config, policy.add_lora(config, params, jax.random.key(1), shardings)


def moved(params):
  """The parameters with every trained one changed."""
  trained, frozen = lora.split(params)
  keys = iter(jax.random.split(jax.random.key(2), 100))
  return lora.join(
    jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), trained), frozen
  )


@functools.cache
def base(**fields):
  config = dataclasses.replace(BASE, **fields)
  params = jax.jit(policy.init, static_argnums=0)(config, jax.random.key(0))
  for table in {"embedding", "head"} & params.keys():
    params[table] = params[table].at[TAGS[1]].set(params[table][TAGS[0]])
  return config, params


UNROLLED = {"scan_layers": False, "tie_embeddings": False, "num_layers": 1}


@pytest.mark.parametrize("fields", [{}, UNROLLED], ids=["stacked", "unrolled"])
def test_fresh_adapters_change_nothing_and_merged_ones_equal_unmerged(fields):
  config, params = base(**fields)
  before = logits(config, params, TOKENS)
  adapted, with_lora = with_adapters(config, params)
  np.testing.assert_allclose(logits(adapted, with_lora, TOKENS), before, atol=1e-5)

  with_lora = moved(with_lora)
  unmerged = logits(adapted, with_lora, TOKENS)
  assert np.abs(unmerged - before).max() > 0.1
  plain, merged = lora.merge(adapted, with_lora)
  assert plain == config
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  np.testing.assert_allclose(logits(plain, merged, TOKENS), unmerged, atol=1e-5)


def test_only_adapters_and_the_rows_of_tags_are_trained():
  _, params = with_adapters(*base(), lora_targets="q,down")
  trained, frozen = lora.split(params)
  assert jax.tree.map(jnp.shape, trained) == {
    "embedding_rows": (2, 32),
    "layers": {
      "attention": {"q": {"lora_a": (2, 32, 4), "lora_b": (2, 4, 4, 8)}},
      "mlp": {"down": {"lora_a": (2, 48, 4), "lora_b": (2, 4, 32)}},
    },
  }
  assert jax.tree.structure(frozen) == jax.tree.structure(base()[1])
  joined = lora.join(trained, frozen)
  assert jax.tree.structure(joined) == jax.tree.structure(params)
  assert all(x is y for x, y in zip(*map(jax.tree.leaves, (joined, params)), strict=True))
  assert lora.split(base()[1]) == (base()[1], {})


def test_tags_of_equal_rows_come_apart():
  """Both of one logit before training: no projection could tell them apart."""
  config, params = with_adapters(*base())
  before = logits(config, params, TOKENS)
  np.testing.assert_array_equal(before[..., TAGS[0]], before[..., TAGS[1]])
  params["embedding_rows"] = params["embedding_rows"].at[1].multiply(-1.0)
  after = logits(config, params, jnp.array([[5, 3]]))
  np.testing.assert_allclose(after[..., TAGS[1]], -after[..., TAGS[0]], rtol=1e-5)


def test_the_frozen_policy_is_held_in_the_compute_dtype():
  config, params = with_adapters(*base(), dtype="bfloat16")
  trained, frozen = lora.split(params)
  assert {x.dtype for x in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
  assert frozen["embedding"].dtype == frozen["layers"]["mlp"]["up"]["kernel"].dtype == "bfloat16"
  shapes = jax.eval_shape(lambda: policy.init(config, jax.random.key(0)))
  assert jax.tree.map(lambda x: x.dtype, shapes) == jax.tree.map(lambda x: x.dtype, params)


def test_adapters_are_laid_out_as_their_kernels_are():
  axes = policy.logical_axes(dataclasses.replace(BASE, lora_rank=4, lora_tokens=TAGS))
  q, o = (axes["layers"]["attention"][name] for name in "qo")
  assert q["lora_a"] == ("layers", "embed", "lora")
  assert q["lora_b"] == ("layers", "lora", "heads", "head_dim")
  assert o["lora_a"] == ("layers", "heads", "head_dim", "lora")
  assert o["lora_b"] == ("layers", "lora", "embed")
  assert axes["embedding_rows"] == (None, "embed")


@functools.cache
def pretrained(name):
  config, params, tokenizer = policy.load_pretrained(GOLDEN / name)
  tags = tokenizer.tag_ids
  adapted = with_adapters(config, params, tokens=(*tags.opening, *tags.closing))
  return adapted[0], moved(adapted[1]), tokenizer


def test_an_export_holds_the_merged_weights(tmp_path):
  config, params, tokenizer = pretrained("qwen2_untied")
  policy.export_pretrained(tmp_path, config, params, tokenizer, "", dtype="float32")
  _, expected = lora.merge(config, params)
  _, found, _ = policy.load_pretrained(tmp_path)
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_array_equal(x[: len(y)], y[: len(x)])


def test_adapters_are_exported_in_the_format_of_peft(tmp_path):
  config, params, tokenizer = pretrained("qwen2_untied")
  policy.export_adapter(tmp_path, config, params, tokenizer, "# Card", "owner/base")
  fields = json.loads((tmp_path / "adapter_config.json").read_text())
  assert (fields["r"], fields["lora_alpha"]) == (4, 16.0)
  assert fields["base_model_name_or_path"] == "owner/base"
  assert "q_proj" in fields["target_modules"] and "lm_head" in fields["trainable_token_indices"]
  tensors = load_file(tmp_path / "adapter_model.safetensors")
  name = "base_model.model.model.layers.1.self_attn.q_proj"
  a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
  q = jax.tree.map(lambda x: np.asarray(x[1]), params["layers"]["attention"]["q"])
  product = np.einsum("dr,rhw->dhw", q["lora_a"], q["lora_b"])
  np.testing.assert_allclose((b @ a).T, product.reshape(len(product), -1), rtol=1e-5, atol=1e-6)
  with pytest.raises(FileExistsError):
    policy.export_adapter(tmp_path, config, params, tokenizer, "", "")
  with pytest.raises(ValueError, match="lora_rank=0"):
    policy.export_adapter(tmp_path / "none", *base(), tokenizer, "", "")
