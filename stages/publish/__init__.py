"""What knows about instructions in a publication: card, gate, certificates, licenses."""
