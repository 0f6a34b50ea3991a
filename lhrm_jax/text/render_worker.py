"""Renders chat templates in a process of its own: a template is a program that a model brings.

Started by `rendering` as a script. It reads one JSON object a line, `{"template", "variables"}`,
and replies with `{"text"}` or `{"error"}`. A render that takes too much processor time or memory
costs this process, not the trainer.
"""

import json
import os
import signal
import sys

_CPU_S = 2.0  # of one render, which usually takes a millisecond
_MEMORY_MIB = 512  # beyond what the libraries need
_MAX_CHARACTERS = 2**24


def main() -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
  out = os.fdopen(os.dup(1), "w", encoding="ascii")
  os.dup2(2, 1)  # a stray print must not get between the replies
  os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # it would say that there is no PyTorch
  from transformers.utils.chat_template_utils import render_jinja_template

  _limit_memory()
  _answer(out, {"ready": True})
  for line in sys.stdin:
    job = json.loads(line)
    # When it expires the signal kills the process, without any Python code having to run.
    signal.setitimer(signal.ITIMER_PROF, _CPU_S)
    reply = _render(render_jinja_template, job["template"], job["variables"])
    signal.setitimer(signal.ITIMER_PROF, 0)
    _answer(out, reply)


def _render(render_jinja_template, template: str, variables: dict) -> dict[str, str]:
  from jinja2.exceptions import TemplateSyntaxError

  try:
    _refuse_chance(template)
    (text,), _ = render_jinja_template(
      [variables.pop("messages")], chat_template=template, **variables
    )
  except TemplateSyntaxError as error:
    return {"error": f"line {error.lineno} is not Jinja: {error.message}"}
  except Exception as error:  # whatever a template does wrong is the template's fault
    return {"error": str(error) or type(error).__name__}
  if len(text) > _MAX_CHARACTERS:
    return {"error": f"it printed {len(text)} characters"}
  return {"text": text}


def _refuse_chance(template: str) -> None:
  """Raises ValueError for a template that prints another prompt each time."""
  if "random" not in template and "lipsum" not in template:
    return
  from jinja2 import Environment, ext, nodes

  class Generation(ext.Extension):  # transformers' own tag
    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
      next(parser.stream)
      return parser.parse_statements(("name:endgeneration",), drop_needle=True)

  tree = Environment(extensions=[Generation, ext.loopcontrols]).parse(template)
  names = [node.name for node in tree.find_all((nodes.Filter, nodes.Name))]
  for name in ("random", "lipsum"):
    if name in names:
      raise ValueError(f"it uses {name}, so that a prompt is another one each time")


def _limit_memory() -> None:
  try:
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
      used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
  except (ImportError, OSError):
    return  # the limit on time holds on every platform
  limit, hard = used + (_MEMORY_MIB << 20), resource.getrlimit(resource.RLIMIT_AS)[1]
  if hard == resource.RLIM_INFINITY or limit < hard:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(out, reply: dict) -> None:
  out.write(json.dumps(reply) + "\n")
  out.flush()


if __name__ == "__main__":
  main()
