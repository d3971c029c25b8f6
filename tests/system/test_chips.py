"""Attention of a decode step and of an update, and mixtures of experts, compiled for a TPU v5e and an H100, which are not here.

What is seen: that the kernels compile, that they are what runs, and that no step copies a cache. How fast they are is not.
Each compiler is a wheel of some 220 MB, installed beside the JAX of this environment and for these tests alone.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.system


def install(there, *requirements):
  subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", there, *requirements], check=True)


def for_tpu(there) -> dict:
  """The environment of a TPU's compiler, once it is installed: the libtpu that this JAX names."""
  (libtpu,) = [line for line in importlib.metadata.requires("jax") if re.match(r"libtpu\b.*extra == .tpu.", line)]
  install(there, libtpu.split(";")[0].strip())
  alone = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # it would lock itself as if the chips were here
  return {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5e-4"} | alone


def for_gpu(there) -> dict:
  """The environment of an NVIDIA GPU's compiler: XLA's plugin for CUDA, and ptxas."""
  version = importlib.metadata.version("jaxlib")
  install(there, f"jax-cuda12-plugin=={version}", f"jax-cuda12-pjrt=={version}", "nvidia-cuda-nvcc-cu12")
  cuda = there / "nvidia/cuda_nvcc"
  return {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "XLA_FLAGS": f"--xla_gpu_cuda_data_dir={cuda}",
    "PATH": f"{cuda / 'bin'}{os.pathsep}{os.environ['PATH']}",
  }


@pytest.fixture(scope="module", params=["tpu", "gpu"])
def compiler(request, tmp_path_factory):
  """(platform, script -> the objects that it prints)"""
  there = tmp_path_factory.mktemp(request.param)
  chip = {"tpu": for_tpu, "gpu": for_gpu}[request.param](there)
  without = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
  environment = without | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(there), str(ROOT)])} | chip

  def run(script, *arguments, status=0):
    script = ["-m", "jaxreason.cli.main", script] if arguments else [ROOT / "tests/system" / script]
    command = [sys.executable, *script, *(arguments or [request.param])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=1800)
    print(done.stdout)
    assert done.returncode == status
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

  return request.param, run


@pytest.fixture(scope="module")
def reports(compiler):
  """(platform, {(shape, devices, kernel): what was compiled})"""
  platform, run = compiler
  return platform, {(line["shape"], line["devices"], line["kernel"]): line for line in run("compile_decode.py")}


def test_the_whole_programs_compile_and_copy_no_cache(compiler):
  """What decode needs beside its state are some arrays of logits; an insertion needs next to nothing."""
  for report in compiler[1]("compile_rollout.py"):
    assert report["decode_temporary_bytes"] < 5 * report["logits_bytes"], report
    assert report["insert_temporary_bytes"] < 0.6 * report["cache_bytes"], report


def test_an_updates_gradients_are_computed_by_kernels_and_hold_no_scores(compiler):
  """Of two layers under one scan: forward, queries' and keys' gradients, and forward again where its results were not kept."""
  platform, run = compiler
  kernel = {"tpu": "splash_tpu", "gpu": "pallas_gpu"}[platform]
  for report in run("compile_training.py"):
    assert report["kernel"] == kernel, report
    least = 3 if report["remat"] == "attention" else 4
    # A TPU's compiler may write out a loop over few packed rows.
    assert report["kernel_calls"] == least or (platform == "tpu" and report["packed"] and not report["kernel_calls"] % least)
    assert report["temporary_bytes"] < report["scores_bytes"], report
    assert report["host_bytes"] == (report["inputs_bytes"] if report["remat"] == "offload" else 0), report


def test_an_update_compiles_for_two_slices(compiler):
  """Of TPUs, which know their slice: each is one part of the mesh."""
  platform, run = compiler
  for report in run("compile_slices.py") if platform == "tpu" else ():
    assert report["slices"] == [[0], [1]] and "all-reduce" in report["collectives"], report


def test_a_mixture_copies_neither_its_rows_for_every_expert_nor_its_experts(compiler):
  update, decode = compiler[1]("compile_moe.py")
  assert update["temporary_bytes"] < 0.6 * update["experts_here"] * update["rows_bytes"], update
  assert decode["temporary_bytes"] < 0.8 * decode["expert_bytes"], decode


def test_the_kernel_is_what_runs_and_no_step_copies_a_cache(reports):
  platform, compiled = reports
  kernels = [report for (_, _, kernel), report in compiled.items() if kernel == f"pallas_{platform}"]
  assert {(report["shape"], report["devices"]) for report in kernels} == {
    ("SmolLM2-135M", 1), ("Qwen2.5-1.5B", 1), ("Qwen2.5-1.5B", 4),
  }  # fmt: skip
  for report in kernels:
    # Of each of two layers: one part, the other, and on TPU the write.
    assert report["kernel_calls"] == (6 if platform == "tpu" else 4), report
    assert report["temporary_bytes"] < 0.1 * report["layer_bytes"], report
    assert report["cache_copies"] == report["collectives"] == 0, report


def test_nor_does_plain_xla_where_a_head_fills_the_lanes(reports):
  """SmolLM2's heads of 64 do not fill a TPU's lanes: there XLA turns the caches around before the loop and back after it."""
  platform, compiled = reports
  for name in ("Qwen2.5-1.5B", *(["SmolLM2-135M"] if platform == "gpu" else [])):
    report = compiled[name, 1, "einsum"]
    assert report["kernel_calls"] == report["cache_copies"] == 0, report
    assert report["temporary_bytes"] < 0.25 * report["layer_bytes"], report


def test_the_smallest_plans_fit_and_one_that_does_not_says_what_to_change(compiler):
  platform, run = compiler
  config, topology = {"tpu": ("pod_qwen3_0_6b", "v5e:2x4"), "gpu": ("pod_qwen2_5_1_5b", "h100:1x1x1")}[platform]
  mesh = [] if platform == "tpu" else ["--config.mesh.fsdp=1"]
  (plan,) = run("plan", f"--config={config}", f"--topology={topology}", "--json", *mesh)
  assert plan["fits"] and [one["name"] for one in plan["programs"]] == ["prepare", "prefill", "insert", "decode", "update"]
  held = plan["held"]
  assert 0 <= held["optimizer"] - 2 * held["weights"] < 1024  # Adam's two moments, and its count
  for one in plan["programs"]:
    assert one["total"] == one["arguments"] + one["temporary"] + one["resident"] <= one["allowed"], one
    assert one["seconds_at_least"] > 0, one
  assert plan["room"]["slots"] >= held["slots"]
  decode, update = plan["programs"][-2:]
  assert not decode["collectives"]  # a token costs none on a mesh without tensor parts
  if platform == "tpu":  # the output matrix is gathered for each of 8 micro-batches, and its gradient summed as often
    matrix = 4 * 151_936 * 1024
    assert update["collectives"]["all-reduce"]["inside"] < 2 * 8 * 2.2 * matrix, update
    return
  mesh += ["--config.train.micro_batches=1"]
  (plan,) = run("plan", f"--config={config}", f"--topology={topology}", "--json", *mesh, status=3)
  (wrong,) = [one for one in plan["programs"] if not one["fits"]]
  assert wrong["name"] == "update" and wrong["total"] > wrong["allowed"]
