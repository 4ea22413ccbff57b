"""Which image each step runs in; a release replaces the tags by digests."""

import os

TAG = os.environ.get("STREETVISION_IMAGE_TAG", "0.1.0")
PREFIX = os.environ.get("STREETVISION_IMAGE_PREFIX", "docker.io/streetvision")

PIPELINE_CPU = f"{PREFIX}/pipeline-cpu:{TAG}"  # data, evaluate, push: no torch inside
PIPELINE_GPU = f"{PREFIX}/pipeline-gpu:{TAG}"  # synthesize, train
