"""Floor 2: the products of a block, with their derivatives written by hand.

What enters: matrices, or a gate and what it lets through. What leaves: float32 sums, or the gated values. JAX by itself
multiplies the float32 slope of a product's result with the factors: for bfloat16 factors every product of a backward pass
would be one of float32 then, at half the rate of a CPU's and a small part of an accelerator's. Here the slope is rounded to
the factors' dtype first, as attention kernels and mixed-precision training in general do; in float32 nothing changes.
"""

import functools
import math

import jax
import jax.numpy as jnp

ROWS, COLUMNS = -1, -2  # which axis of the second factor is summed over: its rows are the outputs', or its columns are


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x, y, axis: int, precision: str | None = None) -> jax.Array:
  """x yᵀ (ROWS) or x y (COLUMNS), summed in float32.

  Args:
    x: [*L, ..., K] float, whose leading axes L are y's.
    y: of x's dtype; [*L, N, K] with `ROWS`, [*L, K, N] with `COLUMNS`.
    axis: of y that is summed over.
    precision: of the products in both passes; see `jax.lax.Precision`.

  Returns:
    [*L, ..., N] float32; float64 of float64.
  """
  return _summed(x, y, (x.ndim - 1,), (y.ndim + axis,), y.ndim - 2, precision)


def _forward(x, y, axis, precision):
  return product(x, y, axis, precision), (x, y)


def _backward(axis, precision, factors, slope):
  x, y = factors
  slope, leading = slope.astype(x.dtype), y.ndim - 2
  rows = tuple(range(leading, x.ndim - 1))
  of_x = _rounded(slope, y, (x.ndim - 1,), (y.ndim + (ROWS + COLUMNS - axis),), leading, precision)
  of_y = _rounded(*((slope, x) if axis == ROWS else (x, slope)), rows, rows, leading, precision)
  return of_x, of_y


product.defvjp(_forward, _backward)


def _summed(x, y, of_x: tuple[int, ...], of_y: tuple[int, ...], leading: int, precision, wide=None):
  batch, wide = tuple(range(leading)), wide or jnp.promote_types(x.dtype, jnp.float32)
  return jax.lax.dot_general(x, y, ((of_x, of_y), (batch, batch)), precision=precision, preferred_element_type=wide)


def _rounded(x, y, of_x, of_y, leading, precision):
  """The sums in the factors' dtype. An accelerator's products round as they write; a CPU's would sum in that dtype too."""
  sums = functools.partial(_summed, of_x=of_x, of_y=of_y, leading=leading, precision=precision)
  on_cpu, elsewhere = lambda x, y: sums(x, y).astype(x.dtype), functools.partial(sums, wide=x.dtype)
  return jax.lax.platform_dependent(x, y, cpu=on_cpu, default=elsewhere)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def gated(gate, up, dtype: str) -> jax.Array:
  """silu(gate) · up of two products of factors in `dtype`: rounded to it, and both kept in it for the backward pass.

  The slopes end in a division, which XLA does not compute twice: by JAX's own derivative, whose end is cheap, they would be
  computed once more in the transposed order that a matrix's gradient wants, a tenth of an update on CPU.

    ∂ silu(g) = σ(g) (1 + g (1 - σ(g))) = (1 + e (1 + g)) / (1 + e)²,   e = exp(-g)

  Source: Shazeer 2020 (gated linear units), https://arxiv.org/abs/2002.05202.
  """
  return (jax.nn.silu(gate) * up).astype(dtype)


def _gated_forward(gate, up, dtype):
  return gated(gate, up, dtype), (gate.astype(dtype), up.astype(dtype))


def _gated_backward(dtype, kept, slope):
  gate, up, slope = (x.astype(jnp.promote_types(dtype, jnp.float32)) for x in (*kept, slope))
  gate = jnp.maximum(gate, _LEAST)
  e = jnp.exp(-gate)
  return slope * up * (1 + e * (1 + gate)) / jnp.square(1 + e), slope * gate / (1 + e)


gated.defvjp(_gated_forward, _gated_backward)
_LEAST = -40.0  # exp(40)² is finite in float32, and what a gate lets through from here on is 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def gated_gelu(gate, up, dtype: str) -> jax.Array:
  """gelu(gate) · up in the form with tanh, kept and rounded as `gated` does.

    gelu(g) = g (1 + t) / 2,   t = tanh(√(2/π) (g + 0.044715 g³))

    ∂ gelu(g) = (1 + t) / 2 + g (1 - t²) √(2/π) (1 + 3 · 0.044715 g²) / 2

  Source: Hendrycks & Gimpel 2016, section 2, https://arxiv.org/abs/1606.08415.
  """
  return (0.5 * gate * (1 + _gelu_tanh(gate)) * up).astype(dtype)


def _gelu_tanh(gate):
  return jnp.tanh(_GELU_SLOPE * (gate + _GELU_CUBE * gate**3))


def _gated_gelu_forward(gate, up, dtype):
  return gated_gelu(gate, up, dtype), (gate.astype(dtype), up.astype(dtype))


def _gated_gelu_backward(dtype, kept, slope):
  gate, up, slope = (x.astype(jnp.promote_types(dtype, jnp.float32)) for x in (*kept, slope))
  t = _gelu_tanh(gate)
  of_gate = 0.5 * (1 + t) + 0.5 * gate * (1 - t * t) * _GELU_SLOPE * (1 + 3 * _GELU_CUBE * jnp.square(gate))
  return slope * up * of_gate, slope * 0.5 * gate * (1 + t)


gated_gelu.defvjp(_gated_gelu_forward, _gated_gelu_backward)
_GELU_SLOPE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715
