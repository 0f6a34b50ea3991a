"""Serves a policy with OpenAI's API; the first token of a reply decides whether it thinks.

  python -m experiments.serve --config.init_from=RUN
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"model": "RUN", "messages": [{"role": "user", "content": "What is 17 * 23?"}]}'

Prints its address when it is ready, and has a page to chat with there. Other machines reach it only
with --host and a key, which is read from the environment variable LHRM_API_KEY or from a file.
"""

from absl import flags

from lhrm_jax import parallel
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.runs import command_line, loading, served, setup


def main(_) -> None:
  c = _CONFIG.value
  if bool(c.init_from) == bool(c.url):
    raise UserError(
      "Name a run or a model, or a core elsewhere by config.url: "
      "python -m experiments.serve --config.init_from=RUN"
    )
  settings, key = served.settings(c, c.init_from or c.model), served.api_key(_API_KEY_FILE.value)
  threshold_at, router = served.thresholds(settings.thresholds), served.router(settings.router)
  try:
    from lhrm_jax.serving import server
  except ImportError as error:
    raise UserError(f"{error}: install what serving needs, pip install '.[serve]'") from error
  setup.use_compilation_cache(c.compilation_cache)
  with as_user_error(ValueError), server.bind(_HOST.value, _PORT.value, key) as listening:
    policies, mesh = {}, parallel.make_mesh()
    lanes = ("core", c.init_from, settings), ("fast", settings.fast.init_from, settings.fast)
    for lane, init_from, knobs in lanes:
      if init_from:
        config, tokenizer, params = loading.load_policy(init_from, mesh)
        draft = None
        if knobs.draft not in ("", "int8"):
          draft = loading.load_policy(knobs.draft, mesh)[::2]
        policies[lane] = server.Policy(config, params, tokenizer, draft)
    server.serve(
      policies, settings, listening,
      key=key, endpoint_key=served.endpoint_key(), threshold_at=threshold_at, router=router,
    )  # fmt: skip


if __name__ == "__main__":
  _CONFIG = command_line.define_config("experiments/configs/serve.py")
  _HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to serve on.")
  _PORT = flags.DEFINE_integer("port", 8000, "Port; 0 takes a free one.", 0, 65535)
  _API_KEY_FILE = flags.DEFINE_string("api_key_file", None, "File with the key of requests.")
  command_line.run(main)
