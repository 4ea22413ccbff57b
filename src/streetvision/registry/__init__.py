"""Which model is the champion: the gate, the MLflow registry, the promotion lock and the hub it is pushed to."""

import os

# Read by MLflow and huggingface_hub, some of it once, when they are first imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # half a minute, not four, for a server out of reach
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
