"""What the tests of the command share: a config whose run takes seconds, and one such run."""

from pathlib import Path

import pytest
from command_process import start

TINY = """
from jaxreason.settings import default_config


def get_config():
  config = default_config()
  config.model.update(embed=16, layers=3, heads=2, kv_heads=1, head_dim=8, mlp=24)
  config.data.update(task="running_sums", train_rows=60)
  config.data.running_sums.update(min_terms=2, max_terms=3)
  config.sft.update(steps=2, batch=8, max_tokens=32)
  config.rollout.update(prompts=4, group=2, max_new_tokens=8, max_prompt_tokens=16, chunk=8, cache_bucket=32)
  config.train.update(steps=2, save_every=2)
  config.rewards.update(workers=1)
  config.evaluation.update(problems=8, samples=2, every=0, show=2)
  return config
"""


@pytest.fixture(autouse=True)
def _platform_is_put_back(monkeypatch):
  """`--platform` sets a variable of this process."""
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> Path:
  """The file of a config whose run takes seconds."""
  path = tmp_path_factory.mktemp("config") / "tiny.py"
  path.write_text(TINY)
  return path


@pytest.fixture(scope="session")
def trained(config_file, tmp_path_factory):
  """(working directory, standard output) of a whole run in a process of its own."""
  workdir = tmp_path_factory.mktemp("run") / "work"
  process = start("train", f"--config={config_file}", f"--workdir={workdir}")
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  return workdir, out
