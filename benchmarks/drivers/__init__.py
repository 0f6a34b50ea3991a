"""One process per library that `benchmarks.peers` compares, each in an environment of its own."""
