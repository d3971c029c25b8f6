"""Numbers that other systems computed, by calling their own functions on one seeded batch of 16 rows of 24 tokens.

`fixtures/reference_losses.npz` holds inputs, parameters, losses, gradients and advantages of TRL 1.16 (Apache-2.0,
https://github.com/huggingface/trl), and of verl (Apache-2.0, https://github.com/volcengine/verl) and AReaL (Apache-2.0,
https://github.com/inclusionAI/AReaL) at the commits named in its metadata, with each case's formula.
"""

import json
from pathlib import Path

import numpy as np

_FILE = np.load(Path(__file__).parent / "fixtures" / "reference_losses.npz")
CASES = {case["id"]: case for case in json.loads(str(_FILE["meta"]))["cases"]}


def case(name: str) -> tuple[dict, dict, dict]:
  """(parameters, inputs by name, outputs by name) of a case; inputs that are not arrays are left out."""
  found = CASES[name]
  inputs = {key: _FILE[value] for key, value in found["inputs"].items() if value in _FILE.files}
  outputs = {key.split("/")[-1]: _FILE[key] for key in _FILE.files if key.startswith(f"out/{name}/")}
  return found["params"], inputs, outputs


def array(name: str) -> np.ndarray:
  """One array of the batch that all cases share, for those that do not list all they read: `array("logp_rollout")`."""
  return _FILE[f"in/main/{name}"]
