"""Studies: experiments on the claims of the papers, with their data and results."""
