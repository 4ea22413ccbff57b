"""What is pinned but not ours, and the programs that bring it and our charts to a cluster."""
