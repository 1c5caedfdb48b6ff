"""What belongs to a publication and knows about instructions: card, gate, certificates, licenses."""
