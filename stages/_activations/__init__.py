"""Hidden states of language models, and sparse autoencoders over them."""
