"""The pipelines, and the ways to compile and run them."""
