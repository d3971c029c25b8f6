"""Metrics: rows come out once, in order, as the bits that went in, whatever moment the run died at."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxreason.errors import UserError
from jaxreason.metrics import FILE, MetricsWriter, deterministic, read


def events(workdir):
  """All TensorBoard events, oldest file first."""
  found = []
  for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      found.append(Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return found


def test_rows_are_written_one_step_late(tmp_path):
  seen = []
  with MetricsWriter(tmp_path, on_numbers=lambda *row: seen.append(row)) as metrics:
    metrics.write(0, "eval", {"pass@1": 0.25})
    metrics.write(0, "train", {"reward": jnp.float32(0.5)})
    assert read(tmp_path) == [] and seen == []
    metrics.write(1, "train", {"reward": jnp.float32(0.75)})
    assert [row["step"] for row in read(tmp_path)] == [0, 0]
    metrics.flush()
    assert len(read(tmp_path)) == 3
    metrics.write(2, "train", {"reward": 1.0, "count": np.int64(3)})
  assert seen[-1] == (2, "train", {"reward": 1.0, "count": 3})
  assert (tmp_path / FILE).read_text().splitlines() == [
    '{"step": 0, "phase": "eval", "pass@1": 0.25}',
    '{"step": 0, "phase": "train", "reward": 0.5}',
    '{"step": 1, "phase": "train", "reward": 0.75}',
    '{"step": 2, "phase": "train", "reward": 1.0, "count": 3}',
  ]


def test_writing_does_not_wait_for_the_device(tmp_path):
  slow = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: jnp.tanh(y @ y), x).sum())
  x = jnp.eye(300)
  slow(x).block_until_ready()
  with MetricsWriter(tmp_path) as metrics:
    loss = slow(x)
    metrics.write(0, "train", {"loss": loss})
    assert not loss.is_ready()
  assert read(tmp_path)[0]["loss"] == float(np.float32(loss))


def test_equal_bits_give_equal_text_and_come_back(tmp_path):
  bits = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)
  values = bits.view(np.float32)
  with MetricsWriter(tmp_path) as metrics:
    metrics.write(0, "train", {str(i): value for i, value in enumerate(values)})
    metrics.write(
      1, "train", {"tenth": jnp.float32(0.1), "half": jnp.bfloat16(0.1), "double": 0.1 + 0.2, "yes": jnp.bool_(True)}
    )
  wide, row = read(tmp_path)
  for i, value in enumerate(values):
    text = wide[str(i)]
    assert text is None if not np.isfinite(value) else np.float32(text).tobytes() == value.tobytes()
  assert row == {"step": 1, "phase": "train", "tenth": 0.1, "half": 0.100097656, "double": 0.30000000000000004, "yes": 1}


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
  seen = []
  with MetricsWriter(tmp_path, on_numbers=lambda *row: seen.append(row[2])) as metrics:
    metrics.write(0, "train", {"loss": jnp.float32(np.nan), "kl": float("inf"), "reward": 1})
  line = (tmp_path / FILE).read_text()
  assert json.loads(line, parse_constant=pytest.fail) == {"step": 0, "phase": "train", "loss": None, "kl": None, "reward": 1}
  assert np.isnan(seen[0]["loss"]) and seen[0]["kl"] == np.inf


def run(workdir, first_step, last_step, checkpoint=None):
  """Steps of two phases with evaluations between; returns the bytes of the file when the checkpoint was due."""
  held = None
  with MetricsWriter(workdir, first_step=first_step) as metrics:
    for step in range(first_step, last_step):
      if step == checkpoint:
        metrics.flush()
        held = (workdir / FILE).read_bytes()
      if step % 3 == 0:
        metrics.write(step, "eval", {"pass@1": step / 7})
      metrics.write(step, "sft" if step < 4 else "train", {"loss": jnp.float32(1 / (1 + step)), "time/step": 0.5})
  return held


def test_killed_at_any_byte_and_resumed_equals_never_stopped(tmp_path):
  held = run(tmp_path / "whole", 0, 9, checkpoint=6)
  whole = (tmp_path / "whole" / FILE).read_bytes()
  killed = tmp_path / "killed"
  killed.mkdir()
  for size in range(len(held), len(whole) + 1, 7):
    (killed / FILE).write_bytes(whole[:size])
    with MetricsWriter(killed, first_step=6):
      assert (killed / FILE).read_bytes() == held
  run(killed, 6, 9)
  assert (killed / FILE).read_bytes() == whole
  run(killed, 0, 9)  # killed before its first checkpoint: all over again
  assert (killed / FILE).read_bytes() == whole
  assert {p.name for p in killed.iterdir()} == {FILE, "tensorboard"}


def test_a_torn_last_line_is_left_out_and_a_spoilt_one_is_told(tmp_path):
  run(tmp_path, 0, 3)
  path = tmp_path / FILE
  path.write_bytes(path.read_bytes()[:-9])
  assert [row["step"] for row in read(tmp_path)] == [0, 0, 1]
  path.write_bytes(b'{"step": 0, "phase": "train"}\n{"step": 1, \n{"step": 2, "phase": "train"}\n')
  with pytest.raises(UserError, match=r"metrics.jsonl line 2, got .*mend the line"):
    read(tmp_path)
  assert read(tmp_path / "nowhere") == []


def test_deterministic_leaves_the_clock_out(tmp_path):
  rows = [{"step": 0, "phase": "train", "reward": 1.0, "time/step": 3.0, "perf/tokens_per_s": 9, "timely": 1}]
  assert deterministic(rows) == [{"step": 0, "phase": "train", "reward": 1.0, "timely": 1}]


def test_tensorboard_holds_every_row_and_purges_on_resume(tmp_path):
  run(tmp_path, 0, 9)
  first = events(tmp_path)
  assert first[0].file_version == "brain.Event:2"
  scalars = [(e.step, v.tag, v.simple_value) for e in first for v in e.summary.value]
  assert (3, "sft/loss", 0.25) in scalars and (6, "eval/pass@1", np.float32(6 / 7)) in scalars
  assert len(scalars) == 9 * 2 + 3
  run(tmp_path, 5, 9)
  later = events(tmp_path)[len(first) :]
  assert [(e.step, e.session_log.status) for e in later if e.HasField("session_log")] == [(5, SessionLog.START)]
  assert min(e.step for e in later if e.HasField("summary")) == 5


def test_misuse_is_told(tmp_path):
  with MetricsWriter(tmp_path, first_step=2) as metrics:
    with pytest.raises(ValueError, match="expected a step of at least 2, got 1"):
      metrics.write(1, "train", {})
    with pytest.raises(ValueError, match="'step'"):
      metrics.write(2, "train", {"step": 1})
    with pytest.raises(ValueError, match=r"expected one number for 'lengths', got shape \(3,\)"):
      metrics.write(2, "train", {"lengths": jnp.ones(3)})
    metrics.write(2, "train", {"name": "text"})
    with pytest.raises(TypeError, match="expected a number for 'name', got 'text'"):
      metrics.flush()
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"expected a workdir that can be written, got .*Not a directory"):
    MetricsWriter(tmp_path / "file" / "run")
