"""Floor 4, report: what a person sees of a run. `display` while it goes on, `curve` when it is done."""
