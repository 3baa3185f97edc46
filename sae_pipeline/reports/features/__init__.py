"""Pages on single latents: which are shown, what is said of each, and how the report leads to them."""
