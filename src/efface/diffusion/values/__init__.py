"""Guards inside the denoiser while it samples: on values of text, and on what cross-attention gives."""
