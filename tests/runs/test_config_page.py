"""docs/config.md lists every key as it is declared."""

import pathlib

from lhrm_jax.runs import config_page

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_of_all_keys_is_that_of_the_declarations():
  written, declared = PAGE.read_text(encoding="utf-8").splitlines(), config_page.page().splitlines()
  stale = [line for line in declared if line not in written]
  assert written == declared, (
    f"python -m lhrm_jax.runs.config_page > docs/config.md writes these anew: {stale}"
  )
