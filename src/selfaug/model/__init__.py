"""Models, their heads and hidden states, and the reference model."""
