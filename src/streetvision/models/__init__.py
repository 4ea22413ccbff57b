"""Networks: frozen pretrained backbones and the heads trained on their features."""
