"""Pages of KV memory: who holds them, and which prefixes they keep."""

from lhrm_jax.serving.memory import Pages, prefix_keys


def test_a_page_is_free_once_all_have_let_go_of_it():
  pages = Pages(4)
  first, second = pages.take(), pages.take()
  pages.publish(first, b"a")
  assert pages.share(b"a") == first and pages.share(b"b") is None
  assert (pages.available, pages.held) == (1, 2)
  assert pages.freed_by([first, second]) == 1
  pages.release([first, second])
  assert (pages.available, pages.held) == (2, 1)
  pages.release([first])
  assert (pages.available, pages.kept) == (3, 1)


def test_a_prefix_is_kept_until_its_memory_is_needed_and_the_oldest_goes_first():
  pages = Pages(3)
  for key in (b"a", b"b"):
    pages.publish(page := pages.take(), key)
    pages.release([page])
  assert pages.kept == pages.available == 2
  assert pages.take() is not None, "the page of a"
  assert pages.share(b"a") is None and pages.share(b"b") is not None
  assert pages.take() is None


def test_page_0_is_never_given_out():
  pages = Pages(3)
  assert {pages.take(), pages.take(), pages.take()} == {1, 2, None}


def test_a_key_names_all_tokens_up_to_its_end_and_the_last_token_has_none():
  keys = prefix_keys([1, 2, 3, 4, 5], 2)
  assert len(keys) == 2 and len(prefix_keys([1, 2, 3, 4], 2)) == 1 and prefix_keys([1], 2) == []
  assert prefix_keys([1, 2, 3, 9, 5], 2)[0] == keys[0]
  assert prefix_keys([9, 2, 3, 4, 5], 2)[1] != keys[1]
