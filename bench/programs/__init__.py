"""Programs that the benchmarks start; the counterparts in JavaScript are in bench/node."""
