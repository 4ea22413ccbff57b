"""The subnet-facing edge: signed challenges in, predictions out; it holds the hotkey and never decodes a picture."""
