"""Which concepts an SAE has a latent for, how often they occur in its training text, and how sparsely it writes directions."""
