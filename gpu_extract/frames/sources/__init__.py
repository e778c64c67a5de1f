"""One module for each kind of source; see `gpu_extract.frames`."""
