"""The file formats that alignments come in, one module each; see `alignments.container`."""
