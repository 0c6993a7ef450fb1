"""`mapolab iterate`: draw, rank, train, and again with what came out."""
