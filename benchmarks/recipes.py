"""Every recipe trains the quickstart's model from one supervised start: held-out pass@1 before and after, and reward curves.

    python -m benchmarks.recipes --workdir runs/recipes [--steps 50] [--platform cpu] [--only dapo,ppo]

One run after the other, each of them `jaxreason train` with `--config.objective=NAME`; what is finished is not run again.
`dapo` comes first: its model is the teacher of `opd`. Prints a table and draws `curves.png`. All settings but the objective are
the quickstart's, which were chosen for GRPO: the table says that each recipe works, not which is best.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxreason import metrics
from jaxreason.recipes import RECIPES

TEACHER = "dapo"


def jaxreason(*arguments: str) -> None:
  subprocess.run([sys.executable, "-m", "jaxreason.cli.main", *arguments], check=True)


def exported(run: Path) -> Path:
  """The run's model as a directory, made once."""
  directory = run / "model"
  if not directory.exists():
    jaxreason("export", f"--workdir={run}", f"--output={directory}", "--platform=cpu")
  return directory


def run_all(workdir: Path, steps: int, platform: str, names: list[str]) -> dict[str, dict]:
  """{recipe: results.json} of every recipe."""
  shared = ["train", "--config=quickstart", f"--platform={platform}", "-q"]
  start = workdir / "start"
  if not (start / "results.json").exists():
    jaxreason(*shared, f"--workdir={start}", "--config.train.steps=0")
  begun = [*shared, "--config.sft.steps=0", f"--config.model.source={exported(start)}", f"--config.train.steps={steps}"]
  for name in names:
    if (workdir / name / "results.json").exists():
      continue
    further = [f"--config.teacher.source={exported(workdir / TEACHER)}"] if RECIPES[name].needs_teacher else []
    jaxreason(*begun, f"--workdir={workdir / name}", f"--config.objective={name}", *further)
  return {name: json.loads((workdir / name / "results.json").read_text()) for name in names}


def rewards(run: Path) -> np.ndarray:
  """The mean reward of each policy step."""
  return np.array([row["reward"] for row in metrics.read(run) if row["phase"] == "train"])


def draw(workdir: Path, names: list[str]) -> Path:
  """A small picture of each recipe's reward, all on the same axes."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  columns = 7
  rows = -(-len(names) // columns)
  shared = dict(sharex=True, sharey=True, squeeze=False)
  figure, axes = plt.subplots(rows, columns, figsize=(14, 2.1 * rows), layout="constrained", **shared)
  for place in axes.flat[len(names) :]:
    place.axis("off")
  for place, name in zip(axes.flat, names, strict=False):
    place.plot(rewards(workdir / name), color="#4269d0", linewidth=1.4)
    place.set_title(name, fontsize=9)
    place.set_ylim(0, 1)
    place.grid(alpha=0.3)
  figure.supxlabel("policy step")
  figure.supylabel("mean reward of the step")
  path = workdir / "curves.png"
  figure.savefig(path, dpi=80)
  return path


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", type=Path, default=Path("runs/recipes"))
  parser.add_argument("--steps", type=int, default=50)
  parser.add_argument("--platform", default="cpu")
  parser.add_argument("--only", default="")
  arguments = parser.parse_args()
  wanted = arguments.only.split(",") if arguments.only else list(RECIPES)
  if "opd" in wanted and TEACHER not in wanted:
    wanted = [TEACHER, *wanted]
  names = sorted(wanted, key=lambda name: name != TEACHER)
  found = run_all(arguments.workdir, arguments.steps, arguments.platform, names)
  print("| recipe | reward, first 5 steps | last 10 | greedy before | after | sampled before | after |")
  print("|---|---|---|---|---|---|---|")
  for name, result in found.items():
    curve = rewards(arguments.workdir / name)
    shares = [result[when][manner]["pass@1"] for manner in ("greedy", "sampled") for when in ("before", "after")]
    print(f"| {name} | {curve[:5].mean():.2f} | {curve[-10:].mean():.2f} | {' | '.join(f'{100 * x:.1f}' for x in shares)} |")
  print(f"curves: {draw(arguments.workdir, names)}")


if __name__ == "__main__":
  main()
