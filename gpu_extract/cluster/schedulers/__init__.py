"""Who runs shards on many machines, one module a scheduler; see `cluster.base` for what a module offers."""
