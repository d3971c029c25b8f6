"""An environment in its plainest form: two arguments, no more. It runs in worker processes only."""


def reset(row):
  return {"wanted": row["answer"]}


def step(state, text):
  right = text == state["wanted"]
  return state, "" if right else "no", float(right), right
