"""What is learnt from the challenges that the miner met."""
