"""The two servers: the predictor behind the cluster's edge, and the miner that faces the subnet."""
