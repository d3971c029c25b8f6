"""Floor 3, host room: the arrays of a checkpoint by name.

What enters: trees of arrays. What leaves: their leaves by path, and what each is, as text; so that two trees can be compared
before anything is read.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxreason.errors import UserError


def named(tree: Any) -> dict[str, Any]:
  """Leaves by their path, `params/blocks/wq`: the names on disk do not depend on how a tree is wrapped."""
  leaves = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      kind = leaf.dtype if isinstance(leaf, jax.Array) else type(leaf).__name__
      raise TypeError(f"expected a jax array for leaf {name}, got {kind}; use jnp.asarray or, for a key, jax.random.key_data")
    if name in leaves:
      raise ValueError(f"expected every leaf under its own name, got two named {name}; rename one of the keys")
    leaves[name] = leaf
  return leaves


def signature(leaf: Any) -> str:
  return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def check_fits(of: str, wanted: Mapping[str, Any], table: Mapping[str, str], partial: bool) -> None:
  """Raises UserError unless a checkpoint, whose table of leaves this is, has what is wanted and, but for `partial`, no more."""
  absent = "nothing"
  names = wanted if partial else wanted | table
  pairs = [(n, signature(wanted[n]) if n in wanted else absent, table.get(n, absent)) for n in names]
  wrong = [pair for pair in pairs if pair[1] != pair[2]]
  if wrong:
    name, expected, got = wrong[0]
    more = f" (and {len(wrong) - 1} other leaves)" if len(wrong) > 1 else ""
    raise UserError(
      f"expected {expected} for leaf {name}, got {got} from {of}{more}; "
      "use the config that the run was started with, or another --workdir"
    )
