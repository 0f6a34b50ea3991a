"""docs/library.md: its blocks run as they are, one after the other."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "library.md"
SIZES = "HFT_STEPS, HGPO_STEPS, PROMPTS, WIDTH, LAYERS, SAMPLES = "


def test_both_stages_and_the_evaluation_run_from_plain_python(capsys):
  blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
  (sizes,) = (block for block in blocks if block.startswith(SIZES))
  scope = {}
  for block in blocks:
    exec(SIZES + "2, 2, 4, 16, 1, 2" if block is sizes else block, scope)
  assert int(scope["state"].step) == 3, "two updates of HGPO, and one under another objective"
  assert scope["scored"].scores.shape == (4, 2, 2)
  assert 0 <= scope["summary"]["hacc"]["score"] <= 1
  assert len(capsys.readouterr().out.splitlines()[-1].split()) == 3
  code = "".join(blocks[2:6])
  assert "experiments" not in code
  assert len([line for line in code.splitlines() if re.match(r"\S|  \w", line)]) < 50
