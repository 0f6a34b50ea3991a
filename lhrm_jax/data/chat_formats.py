"""Formats of general conversations, whose replies are direct demonstrations."""

from lhrm_jax.data import rows
from lhrm_jax.data.dataset import Dataset
from lhrm_jax.data.fields import BadRow, Fields, Unwanted, columns, short, text_field
from lhrm_jax.data.schema import HFTRow
from lhrm_jax.data.sources import Source
from lhrm_jax.text import tags

_DIRECT = tags.MODES[tags.NO_THINK]
_ROLES = {"prompter": "user", "assistant": "assistant"}


def _wildchat(fields: Fields) -> HFTRow:
  """The first exchange of a conversation of WildChat that is not toxic."""
  if fields.get("toxic"):
    raise Unwanted("toxic")
  conversation = fields.get("conversation")
  if not isinstance(conversation, list):
    raise BadRow(f"no 'conversation'; the row has {columns(fields)}")
  return rows.hft_row({"messages": conversation[:2], "mode": _DIRECT})


class _OpenAssistant:
  """Best replies of OpenAssistant's conversations, each with the turns before it as context.

  The hub's rows are messages, each after the one that it replies to, tree by tree; the texts of the
  current tree are kept.
  """

  def __init__(self):
    self._tree, self._turns = None, {}

  def __call__(self, fields: Fields) -> HFTRow:
    tree, name = text_field(fields, "message_tree_id"), text_field(fields, "message_id")
    if tree != self._tree:
      self._tree, self._turns = tree, {}
    if (role := _ROLES.get(text_field(fields, "role"))) is None:
      raise BadRow(f"role={short(fields['role'])} is not one of {', '.join(_ROLES)}")
    before = []
    if fields.get("parent_id") is not None:
      if (parent := text_field(fields, "parent_id")) not in self._turns:
        raise BadRow("the message it replies to is missing, malformed or deleted")
      before = self._turns[parent]
    if fields.get("deleted"):
      raise Unwanted("deleted")
    turns = [*before, {"role": role, "content": text_field(fields, "text")}]
    self._turns[name] = turns
    if role == "user":
      raise Unwanted("a user's message, which is context of its replies")
    if fields.get("rank"):  # 0 is the best of the replies; alone, it has none
      raise Unwanted("another reply was ranked better")
    return rows.hft_row({"messages": turns, "mode": _DIRECT})


DATASETS: dict[str, Dataset] = {
  "wildchat": Dataset(Source("hf:allenai/WildChat-1M", streaming=True), _wildchat, HFTRow),
  "oasst1": Dataset(Source("hf:OpenAssistant/oasst1"), _OpenAssistant(), HFTRow),
}
