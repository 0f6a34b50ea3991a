"""The four tags that open and close a response, and the two modes they stand for.

A response's first token is its decision (https://arxiv.org/abs/2505.14631):
`<think> reasoning </think> answer` or `<no_think> whole answer </no_think>`. Every tag is a single
token of the vocabulary.
"""

# Positions on the mode axis of every `[B, 2, G, ...]` array.
THINK = 0
NO_THINK = 1
MODES = ("think", "no_think")
# The mode of a reply whose first token is not an opening tag.
INVALID_MODE = -1

OPENING_TAGS = ("<think>", "<no_think>")
CLOSING_TAGS = ("</think>", "</no_think>")
TAGS = ("<think>", "</think>", "<no_think>", "</no_think>")
