r"""Large Hybrid-Reasoning Models (https://arxiv.org/abs/2505.14631) in JAX.

Each package with an example; modules are imported as in `from lhrm_jax.objectives import hgpo`:

- `policy`: the Flax decoder as pure functions, loading and export
    config, params, tokenizer = policy.load_pretrained("Qwen/Qwen3-0.6B")
    policy.export_pretrained("out", config, params, tokenizer, card="# My model")
- `text`: tokenizers, tags, chat templates, parsing
    answer = text.parse_response("<think>6 * 7</think>42").answer
- `sampling`: paired rollouts, both modes of every prompt
    rollouts = sampling.sample(config, spec, params, prompts, key)
- `objectives`: rewards, advantages and losses on arrays
    r_inter, r_intra = objectives.hgpo.assign_rewards(scores, delta=0.2)
    advantages = objectives.hgpo.advantages(scores, alpha=1.0, delta=0.2)
- `rewards`: rewards by name, the mathematics verifier, the sandbox for programs
    score = rewards.get("exact_match")("6 * 7?", "<no_think>42</no_think>", "42")
    verdict = rewards.math.verify("1/2", r"\boxed{0.5}")
- `data`: tasks, data sets, batches, packing
    rows = data.catalog.load("gsm8k").rows
- `preparation`: from sources in their own formats to tokenised shards, on datatrove's executors
    stages = preparation.pipeline.stages(c.data, c.prepare, seed=0, work=work, out=out, **more)
- `training`: train state, updates of HFT, HGPO and DPO
    step = training.hgpo.make_hgpo_step(config, c, opening, optimizer, schedule, mesh)
- `routing`: routers that judge the prompt alone, thresholds for a think rate
    modes = routing.load("runs/routers/routers/logistic.json").modes(prompts)
- `evaluation`: Hybrid Accuracy, the evaluator, figures, the report
    hacc = evaluation.hybrid_accuracy(scores, lengths, chosen_mode).score
- `serving`: the decode engine and the server around it
    serving.server.serve({"core": (config, params, tokenizer)}, c, listening)
- `runs`: what a run needs around its maths: config, run folder, checkpoints, logs
    policy_config, tokenizer, params = runs.loading.load_policy("runs/arithmetic", mesh)
- `planning`: costs of a config on chips, by ahead-of-time compilation
    plan = planning.plan.make_plan(program, topology)
- `parallel`: mesh, shardings, several hosts
    mesh = parallel.make_mesh(data=-1, fsdp=8)
- `storage`: buckets, URLs, checksums
    folder = storage.bucket.fetched("gs://BUCKET/RUN")
- `config`: typed settings, declared once with default, range and meaning
    delta: float = config.knob(0.2, config.real(), "Margin that thinking must lead by.")

Packages are imported on first use. docs/library.md trains and evaluates a policy with them; jobs
are in `experiments/` of a checkout, see README.md.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"
__all__ = [
  "config", "data", "evaluation", "objectives", "parallel", "planning", "policy", "preparation",
  "rewards", "routing", "runs", "sampling", "serving", "storage", "text", "training",
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
  if name in __all__:
    return importlib.import_module(f"lhrm_jax.{name}")
  raise AttributeError(f"module 'lhrm_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return [*globals(), *__all__]
