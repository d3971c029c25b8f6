"""What a run reads before a device is touched: what does not fit together is told, and base models get plain prompts."""

from pathlib import Path

from jaxreason import build, settings

SOURCE = str(Path(__file__).parents[1] / "fixtures/models/smollm.gguf")


def chosen(**changes):
  """Settings with changes by dotted name, with __ for the dot."""
  config = settings.default_config()
  config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
  return settings.freeze(config)


def test_a_base_model_is_given_plain_text():
  chat, plain = (build.load_tokenizer(chosen(model__source=SOURCE, model__chat=chat)) for chat in (True, False))
  assert plain.render("2+3=") == plain.encode("2+3=")
  assert len(chat.render("2+3=")) > len(plain.render("2+3="))
  assert chat.fingerprint != plain.fingerprint
