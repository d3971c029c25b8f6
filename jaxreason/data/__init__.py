"""Floor 3, host room: text before it reaches the model. Rows come from files, a hub or a generated task; leave as token arrays.

A row is a plain dict: `prompt` (str or a list of {"role", "content"} messages), `answer` (str), `verifier` (the name of who
judges it), `id` (str) and, where there is something to imitate, `demonstration` (str).

  tokenizer, characters     text <-> token ids, one frozen record of functions
  tasks/                    generated problems with splits that cannot leak
  files, sources            rows from JSONL, JSON, Parquet, a directory or a hub id
  overlap                   evaluation prompts that also occur in training
  stream                    the endless shuffled stream that a visit_id indexes
  prompts, demonstrations   rows -> right-padded numpy arrays
"""
