"""Running what was built: a registered model brought into the served predictor, and taken back where it fails."""
