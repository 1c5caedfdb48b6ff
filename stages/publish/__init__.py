"""What belongs to a publication and knows about instructions: the gate, certificates, licenses."""
