"""Studies: experiments that answer the claims of the paper, with their data and results."""
