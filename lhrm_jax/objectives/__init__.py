"""Pure maths on arrays: advantages, losses, masked reductions."""
