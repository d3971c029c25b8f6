"""Floor 4: a run's programs, compiled for chips that are not here, and what they would need there."""
