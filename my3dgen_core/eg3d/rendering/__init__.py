"""Volume rendering of tri-planes: its implementations, and the module that chooses between them."""
