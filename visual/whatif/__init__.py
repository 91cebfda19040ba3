"""The what-if page: change actions, and compare the simulator with the world model."""
