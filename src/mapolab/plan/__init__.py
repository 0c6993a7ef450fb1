"""What a run will cost, told on fake tensors: no weights, no GPU."""
