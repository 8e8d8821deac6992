"""Shadow models by the hundred: which ones, what each is trained on and unlearned by, and the farm that makes them."""
