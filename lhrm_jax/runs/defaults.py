"""Every key an experiment knows, with the paper's value where the paper has one.

Configs start from here and change what they need; a key that is not here is an error.
"""

import dataclasses

from ml_collections import ConfigDict

from lhrm_jax.rewards.model import RewardModelConfig


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.seed = 0
  config.task = "arithmetic"  # lhrm_jax.data.tasks
  config.reward = "exact_match"  # lhrm_jax.rewards
  # A weighted sum of rewards in place of config.reward: ConfigDict({"math": 1.0, "mine": 0.2}).
  config.reward_weights = ConfigDict()
  # Rewards by source of rows, in place of both: ConfigDict({"deepscaler": "math", "tulu3":
  # "reward_model"}); "*" stands for all other sources.
  config.reward_by_source = ConfigDict()
  # Of the reward "reward_model".
  config.reward_model = ConfigDict(dataclasses.asdict(RewardModelConfig()))
  # What to start from; HGPO then skips the cold start. A run (its folder, or one of checkpoints in
  # it), a model's folder, a hub id, a GGUF file, or package:NAME.
  config.init_from = ""
  # Where compiled programs are kept between runs; "" keeps none.
  config.compilation_cache = "~/.cache/lhrm_jax/xla"

  # Steps of each stage to profile, as in "10:12" for 10 and 11; open WORKDIR/profile with XProf.
  config.profile_steps = ""

  config.policy = ConfigDict()  # lhrm_jax.policy.PolicyConfig
  # The tokenizer's. Beside init_from it says that the sizes below are the model's: experiments.plan
  # then needs no download, another model is refused, and max_positions and rope_theta hold.
  config.policy.vocab_size = 0
  config.policy.hidden_size = 64
  config.policy.intermediate_size = 192
  config.policy.num_layers = 3
  config.policy.num_heads = 4
  config.policy.num_kv_heads = 4
  config.policy.head_dim = 0
  config.policy.max_positions = 4096
  config.policy.rope_theta = 10_000.0
  config.policy.rms_norm_eps = 1e-6
  config.policy.qkv_bias = False
  config.policy.qk_norm = False
  config.policy.tie_embeddings = True
  config.policy.scan_layers = True
  config.policy.remat = "none"
  config.policy.dtype = "float32"
  config.policy.attention = "auto"  # or "xla", "cudnn", "splash"
  config.policy.logprob_chunk = 4096
  config.policy.attention_chunk = 0

  config.mesh = ConfigDict()  # one size may be -1: the devices that are left
  config.mesh.data = -1
  config.mesh.fsdp = 1
  config.mesh.tensor = 1
  # Every host samples by itself from whole copies of the weights; `tensor` devices share one.
  config.sampling_mesh = ConfigDict()
  config.sampling_mesh.tensor = 1

  config.data = ConfigDict()
  config.data.max_prompt_tokens = 512
  config.data.max_response_tokens = 1024
  # Direct demonstrations are batched apart from thinking ones, unless packed; no longer than this.
  config.data.max_no_think_tokens = 256
  config.data.long_prompts = "raise"  # or "skip", "truncate_left": lhrm_jax.data.limits
  config.data.long_demonstrations = "raise"  # or "skip"
  # Of task = "rows" (lhrm_jax.data.row_task), which needs init_from: names of sources, with commas
  # between them. A name is one of data.sources, a known data set, a file of rows (.jsonl, .json,
  # compressed or not, .parquet), hf:NAME or tfds:NAME.
  config.data.demonstrations = ""
  config.data.prompts = ""
  config.data.evaluation = ""  # "": a tenth of data.prompts, kept out of training
  config.data.sources = ConfigDict()  # {"mine": {"path": ..., "columns": {"prompt": "question"}}}
  config.data.on_bad_row = "raise"  # or "skip", with counts by reason

  config.hft = ConfigDict()
  config.hft.steps = 1000  # a cap where hft.until is set
  config.hft.think_per_step = 64
  config.hft.no_think_per_step = 64
  # Demonstrations are packed into rows of so many tokens, a step's rows cut into micro-batches of
  # hft.micro_batch_rows (a multiple of the devices along mesh.data and mesh.fsdp); 0: one
  # demonstration per row, thinking and direct ones in two micro-batches of their own widths.
  config.hft.packed_length = 0
  config.hft.micro_batch_rows = 8
  config.hft.learning_rate = 1e-4
  config.hft.warmup_steps = 100
  config.hft.weight_decay = 0.01
  config.hft.clip_norm = 1.0
  # Stop early once greedy accuracy on the evaluation prompts reaches these; 0 never stops.
  config.hft.until = ConfigDict()
  config.hft.until.think = 0.0
  config.hft.until.no_think = 0.0
  config.hft.until.no_think_levels = (1, 2)
  config.hft.until.check_every = 100

  config.hgpo = ConfigDict()
  config.hgpo.steps = 100
  config.hgpo.prompts_per_step = 256
  # A step's prompts are sampled in this many chunks; each is scored while the next is sampled.
  config.hgpo.sampling_chunks = 1
  # Processes that judge `math` and `multiple_choice`; twice as many sandboxes run at a time.
  config.hgpo.reward_workers = 2
  config.hgpo.samples_per_mode = 2
  config.hgpo.pairing = "paired"  # or "free": the policy chooses, 2 * samples_per_mode responses
  config.hgpo.temperature = 1.0
  config.hgpo.top_p = 1.0
  config.hgpo.top_k = 0
  config.hgpo.advantage = "hgpo"  # lhrm_jax.objectives.advantages
  # Arguments of an advantage of your own, beyond those below: ConfigDict({"margin": 0.1}). Of those
  # below, a function is given what it names.
  config.hgpo.advantage_options = ConfigDict()
  config.hgpo.alpha = 1.0
  config.hgpo.delta = 0.2  # in units of the score
  # Of a reward model's scores: "raw", "sigmoid", "standardised" or "percentile"
  # (lhrm_jax.rewards.scales); "" is what the model was made with.
  config.hgpo.reward_scale = ""
  config.hgpo.tie = "all"
  config.hgpo.intra_scope = ""  # "mode" or "all"; "": "all" for the estimator "rloo", else "mode"
  config.hgpo.estimator = "grpo"
  config.hgpo.literal = False  # the estimator's equations as printed, see docs/method.md
  config.hgpo.ddof = 0
  config.hgpo.skip_unsolved = False
  config.hgpo.beta = 0.001
  config.hgpo.clip_low = 0.5
  config.hgpo.clip_high = 0.5
  config.hgpo.aggregation = "sequence_sum"
  config.hgpo.tag_weight = 1.0
  config.hgpo.gamma = 0.99  # of the estimator "reinforce_pp"
  # The first token: log-probabilities of forced tags over the two "tags" or the "vocabulary", its
  # divergence from the reference "k3" or "exact", and the weight on -log(p_think + p_no_think).
  config.hgpo.tag_normalisation = "tags"
  config.hgpo.tag_kl = "k3"
  config.hgpo.neither_penalty = 10.0
  # A step's queries make so many updates, a mini-batch of whole queries each, `epochs` times over.
  config.hgpo.updates_per_rollout = 1
  config.hgpo.epochs = 1
  config.hgpo.micro_batches = 1  # parts of an update's prompts; memory is that of one
  # Responses of a micro-batch, sorted by length, are computed in this many parts, each as wide as
  # its longest response needs. Each adds up a gradient of all parameters, over all devices.
  config.hgpo.length_buckets = 8
  # Leave responses without advantage out of the update; with beta = 0, they have no gradient.
  config.hgpo.skip_zero_advantages = False
  config.hgpo.learning_rate = 1e-6
  config.hgpo.weight_decay = 0.0
  config.hgpo.clip_norm = 1.0
  config.hgpo.eval_every = 10  # steps between free evaluations during training; 0 for none

  config.evaluation = ConfigDict()
  config.evaluation.prompts = 500
  config.evaluation.batch_prompts = 100
  config.evaluation.temperature = 0.6
  config.evaluation.top_p = 0.95
  config.evaluation.samples = 4  # per mode and prompt, for Hybrid Accuracy
  config.evaluation.hacc_temperature = 0.6
  config.evaluation.margin = 0.0

  # Saves run beside the training; a run goes on from its newest whole checkpoint.
  config.checkpoint = ConfigDict()
  config.checkpoint.every = 50
  config.checkpoint.keep = 2
  config.checkpoint.best = ""  # a metric of the evaluations in training: its best is kept too
  # Keys that may differ from those the run in --workdir was started with: "hgpo.steps,hgpo.beta".
  config.allow_config_change = ""

  config.judging = ConfigDict()
  # Seconds for the programs of one chunk of responses (reward = "code"); what is not judged by then
  # scores 0 and is counted as reward/failed/deadline.
  config.judging.deadline_s = 300.0
  # A response that its reward fails on scores 0 and is counted as reward/failed/REASON; more than
  # this share of a reward's last 200 judgements (and at least 10) end the run.
  config.judging.max_failed_share = 0.1

  # Thresholds on training metrics; 0 is none. Crossing one warns, or ends the run with `stop`.
  config.gates = ConfigDict()
  config.gates.max_logp_difference = 0.0  # mean |sampler's - trainer's log-probability|, nats
  config.gates.max_clip_ratio = 0.0  # share of tokens clipped at one bound
  config.gates.max_kl = 0.0  # nats per token from the reference
  config.gates.pinned_steps = 50  # in a row with a mean p(think) under 1 % or over 99 %
  config.gates.stop = False

  config.numerics = ConfigDict()
  config.numerics.max_skipped_in_a_row = 10  # updates that are not finite, before the run ends
  config.numerics.max_dumps = 3  # of such updates; each is as large as the policy
  return config
