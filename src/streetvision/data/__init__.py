"""Pictures with labels: sources, duplicates, splits and the manifest that keeps them."""
