"""A rollout here and in TRL: the same SmolLM2-135M, the same prompts, float32 on the CPU, tokens a second and their ratio.

    python -m benchmarks.peers [--json] [--static] [--rounds 2 --repeats 3] [--python /path/to/python]

4 prompts x 8 samples x 64 tokens, all decoded. Each side is a process of its own and they run in turns, each round with a
warm-up and then several repeats; the least time counts. TRL runs in `.cache/peers-venv`, made at first use, or in the
interpreter that `--python` names. `make smollm2` fetches the weights; without them both sides get the same random ones.
`--static` adds TRL with `cache_implementation="static"`. GLIBC_TUNABLES and the like reach both sides.
Run it on an idle machine: torch's threads wait for one another by spinning, and other work slows them far more than ours.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from jaxreason.model import gguf, hf, weights
from jaxreason.model.config import ModelConfig

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"
MODEL = CACHE / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROBLEMS = ROOT / "tests" / "fixtures" / "gsm8k_sample.jsonl"
PACKAGES = ("torch==2.13.0", "transformers==5.23.0", "trl==1.16.0", "accelerate==1.15.0")
SHAPE = ModelConfig(
  vocab_size=49_152, embed=576, layers=30, heads=9, kv_heads=3, head_dim=64, mlp=1536, rope_theta=100_000.0, max_positions=8192
)
QUESTION = (60, 100)  # tokens of the questions that are taken


def environment(folder: Path = CACHE / "peers-venv") -> Path:
  """The interpreter of TRL's environment; the mark is written last, so that a broken installation is made again."""
  python, mark = folder / "bin" / "python", folder / ".installed"
  if not mark.is_file() or mark.read_text().split() != list(PACKAGES):
    print(f"installing {', '.join(PACKAGES)} into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, stdout=sys.stderr)
    mark.write_text("\n".join(PACKAGES))
  return python


def model(real: bool) -> Path:
  """The directory that both sides read, exported once."""
  directory = CACHE / "peers" / ("smollm2" if real else "random")
  if not directory.exists():
    directory.parent.mkdir(parents=True, exist_ok=True)
    if real:
      params, config = gguf.load(MODEL)
      tokenizer = gguf.tokenizer(MODEL)
    else:
      params, config, tokenizer = jax.jit(lambda key: weights.initialize(SHAPE, key))(jax.random.key(0)), SHAPE, words()
    hf.save(params, config, directory, tokenizer=tokenizer)
  return directory


def words():
  """A tokenizer of nothing but the end, which TRL wants to see beside the random weights."""
  from tokenizers import Tokenizer
  from tokenizers.models import WordLevel
  from transformers import PreTrainedTokenizerFast

  known = Tokenizer(WordLevel({"<end>": 0, "<unknown>": 1}, unk_token="<unknown>"))
  return PreTrainedTokenizerFast(tokenizer_object=known, eos_token="<end>", pad_token="<end>", unk_token="<unknown>")


def prompts(real: bool, count: int) -> list[list[int]]:
  """Token ids of GSM8K questions in the model's chat template, or as many as such have of any tokens."""
  if not real:
    return [[2 + (31 * i + 7 * row) % 40_000 for i in range(96 + row)] for row in range(count)]
  tokenizer = gguf.tokenizer(MODEL)
  questions = [json.loads(line)["question"] for line in PROBLEMS.read_text().splitlines()]
  size = lambda text: len(tokenizer.encode(text, add_special_tokens=False))
  chosen = [text for text in questions if QUESTION[0] <= size(text) <= QUESTION[1]][:count]
  chats = [[{"role": "user", "content": text}] for text in chosen]
  return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


def sides(python: Path, static: bool) -> dict[str, tuple[list, str]]:
  """{name: (command, variant)}; jaxreason comes first."""
  trl = [python, Path(__file__).with_name("peers_trl.py")]
  found = {"jaxreason": ([sys.executable, "-m", "benchmarks.peers_ours"], "default"), "trl": (trl, "default")}
  return found | ({"trl, static cache": (trl, "static")} if static else {})


def measured(command: list, task: dict) -> dict:
  """One process's answer to a task."""
  with tempfile.TemporaryDirectory() as folder:
    asked, answered = Path(folder) / "task.json", Path(folder) / "answer.json"
    asked.write_text(json.dumps(task))
    settings = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([*command, asked, answered], cwd=ROOT, env=settings, capture_output=True, text=True)
    if run.returncode:
      raise SystemExit(f"{' '.join(map(str, command))} ended with {run.returncode}:\n{(run.stdout + run.stderr)[-4000:]}")
    return json.loads(answered.read_text())


def processor() -> str:
  """The processor's own name where the system tells it."""
  path = Path("/proc/cpuinfo")
  lines = path.read_text().splitlines() if path.is_file() else []
  names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor() or platform.machine()


def compare(arguments: argparse.Namespace) -> dict:
  """Everything that is printed, as one object."""
  real, load = MODEL.is_file(), os.getloadavg()[0]
  python = arguments.python or environment()
  given = prompts(real, arguments.prompts)
  cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
  task = {
    "model": str(model(real)), "prompts": given, "group": arguments.group, "new": arguments.new, "threads": cores,
    "warm_up": 1, "repeats": arguments.repeats,
  }  # fmt: skip
  found: dict[str, dict] = {}
  for _ in range(arguments.rounds):
    for name, (command, variant) in sides(python, arguments.static).items():
      answer = measured(command, task | {"variant": variant})
      answer["seconds"] = found.get(name, {}).get("seconds", []) + answer["seconds"]
      found[name] = answer
  tokens = len(given) * arguments.group * arguments.new
  for answer in found.values():
    answer["tokens_per_second"] = tokens / min(answer["seconds"])
  return {
    "model": "SmolLM2-135M-Instruct" if real else "random weights of SmolLM2-135M's shape",
    "prompts": len(given), "group": arguments.group, "new": arguments.new, "prompt_lengths": [len(ids) for ids in given],
    "device": f"{processor()}, {cores} cores", "python": platform.python_version(),
    "load": load, "tunables": os.environ.get("GLIBC_TUNABLES", ""), "sides": found,
    "ratio": found["jaxreason"]["tokens_per_second"] / found["trl"]["tokens_per_second"],
  }  # fmt: skip


def show(told: dict) -> None:
  print(
    f"{told['model']}, {told['prompts']} prompts of {min(told['prompt_lengths'])} to {max(told['prompt_lengths'])} tokens x "
    f"{told['group']} samples x {told['new']} tokens, on {told['device']}, load {told['load']:.1f} before, "
    f"Python {told['python']}"
  )
  rate = told["sides"]["trl"]["tokens_per_second"]
  for name, side in told["sides"].items():
    versions = ", ".join(f"{key} {value}" for key, value in side["versions"].items())
    print(
      f"{name:18} {min(side['seconds']):7.2f} s least of {len(side['seconds'])}, {max(side['seconds']):.2f} most "
      f"{side['tokens_per_second']:7.0f} tokens/s {side['tokens_per_second'] / rate:5.2f} x   "
      f"{side['dtype']}, {side['threads']} threads, {versions}"
    )
  print(f"jaxreason over trl: {told['ratio']:.2f}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--python", type=Path)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--static", action="store_true")
  for name, default in {"prompts": 4, "group": 8, "new": 64, "rounds": 2, "repeats": 3}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
  arguments = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  told = compare(arguments)
  if arguments.json:
    print(json.dumps(told))
  else:
    show(told)


if __name__ == "__main__":
  main()
