"""Training on pictures that the model draws itself, in rounds: draw and reward, then some optimizer steps on them."""
