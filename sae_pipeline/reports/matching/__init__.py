"""The section on matching: which latents SAEs share, what decides it, and what the others are."""
