"""The turns of conversations, in the forms in which sources write them."""
