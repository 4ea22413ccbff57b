"""Facts of subnet 72: its regimes, challenges, reward and wire format, each with its source."""
