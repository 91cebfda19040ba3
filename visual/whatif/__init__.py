"""What if: change what is done, and see what the model and the world make of it."""
