"""A run in shards on many machines, by programs that run on them already."""
